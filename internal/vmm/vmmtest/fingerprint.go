package vmmtest

import (
	"os"
	"path/filepath"

	"banger/internal/vmm"
)

// fingerprints compares the fingerprints of machines that differ in one thing.
func (s *suite) fingerprints() {
	other := filepath.Join(s.TempDir(), "other")
	if err := os.WriteFile(other, []byte("other"), 0o600); err != nil {
		s.Fatal(err)
	}
	m := s.h.Machine(s)
	m.Drives = []vmm.Drive{{Name: "a", Path: m.Kernel, ReadOnly: true}, {Name: "b", Path: m.Kernel}}
	m.NICs = []vmm.NIC{{Kind: vmm.NICTap, Tap: "tap1", MAC: []byte{2, 0, 0, 0, 0, 1}}}
	want := s.fingerprint(m, func(*vmm.Machine) {})
	for name, change := range map[string]func(*vmm.Machine){
		"id":            func(m *vmm.Machine) { m.ID = "another" },
		"run directory": func(m *vmm.Machine) { m.RunDir = s.TempDir() },
		"log":           func(m *vmm.Machine) { m.ConsoleLog, m.VMMLog = other, other },
		"drive's file":  func(m *vmm.Machine) { m.Drives[1].Path = other },
		"MAC":           func(m *vmm.Machine) { m.NICs[0].MAC = []byte{2, 0, 0, 0, 0, 2} },
		"unset MAC":     func(m *vmm.Machine) { m.NICs[0].MAC = nil },
		"tap's name":    func(m *vmm.Machine) { m.NICs[0].Tap = "tap2" },

		"kernel's place":    func(m *vmm.Machine) { m.Kernel = other },
		"initramfs's place": func(m *vmm.Machine) { m.Initramfs = []string{other} },
	} {
		if got := s.fingerprint(m, change); got != want {
			s.Errorf("the fingerprint depends on the machine's %s", name)
		}
	}
	seen := map[string]string{want: "nothing"}
	for name, change := range map[string]func(*vmm.Machine){
		"vCPUs":               func(m *vmm.Machine) { m.VCPUs++ },
		"memory":              func(m *vmm.Machine) { m.Memory *= 2 },
		"number of drives":    func(m *vmm.Machine) { m.Drives = m.Drives[:1] },
		"order of the drives": func(m *vmm.Machine) { m.Drives[0], m.Drives[1] = m.Drives[1], m.Drives[0] },
		"kind of a drive":     func(m *vmm.Machine) { m.Drives[1].ReadOnly = true },
		"number of cards":     func(m *vmm.Machine) { m.NICs = nil },
		"kind of a card":      func(m *vmm.Machine) { m.NICs[0].Kind = vmm.NICUser },
		"content to boot":     func(m *vmm.Machine) { m.BootID = "other" },
		"kernel arguments":    func(m *vmm.Machine) { m.Cmdline = []string{"more"} },
	} {
		got := s.fingerprint(m, change)
		if like := seen[got]; like != "" {
			s.Errorf("another %s makes the same fingerprint as another %s", name, like)
		}
		seen[got] = name
	}
	shape := func(kernel, id string) string {
		return s.fingerprint(m, func(m *vmm.Machine) {
			m.Kernel, m.BootID, m.Initramfs, m.Cmdline, m.Drives = kernel, id, nil, nil, nil
		})
	}
	if a, b := shape("", ""), shape(m.Kernel, m.BootID); a == b {
		s.Errorf("a machine with a kernel and one without have the same fingerprint %s", a)
	}
	m.BootID = ""
	if text, err := s.restorer().Fingerprint(s.ctx, m); err == nil {
		s.Errorf("a machine whose boot files have no identity has a fingerprint: %s", text)
	}
}

// fingerprint returns the fingerprint of a machine like m, after a change of the copy.
func (s *suite) fingerprint(m vmm.Machine, change func(*vmm.Machine)) string {
	s.Helper()
	m.Drives, m.NICs = append([]vmm.Drive(nil), m.Drives...), append([]vmm.NIC(nil), m.NICs...)
	change(&m)
	text, err := s.restorer().Fingerprint(s.ctx, m)
	if err != nil {
		s.Fatalf("a machine has no fingerprint: %v", err)
	}
	return text
}
