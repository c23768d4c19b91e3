package qemu

import (
	"flag"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
)

var update = flag.Bool("update", false, "write the golden files anew")

func sample() vmm.Machine {
	return vmm.Machine{
		ID: "0123456789abcdef", RunDir: "/run/banger/vms/0123456789abcdef",
		Kernel: "/cache/kernels/k/vmlinux", BootID: "boots", Initramfs: []string{"/cache/initramfs/a.cpio"}, Cmdline: []string{"quiet", "net.ifnames=0"},
		VCPUs: 2, Memory: 512 * model.MiB,
		Drives: []vmm.Drive{
			{Name: "image", Path: "/cache/images/debian.ext4", ReadOnly: true},
			{Name: "system", Path: "/state/a,b/system.ext4"},
		},
		NICs: []vmm.NIC{{Kind: vmm.NICUser, MAC: net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x56}}, {Kind: vmm.NICTap, Tap: "banger0"}, {Kind: vmm.NICWire}},
	}
}

func TestArgsGolden(t *testing.T) {
	for name, h := range map[string]host{
		"tcg": {accel: TCG, tscKHz: 2596120, initrd: "/cache/initramfs/a.cpio"},
		"kvm": {accel: KVM, initrd: "/proc/self/fd/7"},

		"restored":  {accel: TCG, tscKHz: 2596120, restored: true},
		"read-only": {accel: KVM, restored: true, readOnly: true, wire: 9},
	} {
		var lines strings.Builder
		for _, arg := range args(sample(), h) {
			if strings.HasPrefix(arg, "-") {
				lines.WriteString("\n" + arg)
			} else {
				lines.WriteString(" " + arg)
			}
		}
		got := strings.TrimPrefix(lines.String(), "\n") + "\n"
		path := filepath.Join("testdata", "args-"+name+".golden")
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("the command line for %s is\n%s\nnot\n%s", name, got, want)
		}
	}
}

func TestCheck(t *testing.T) {
	good := func() vmm.Machine {
		dir := t.TempDir()
		m := sample()
		m.Kernel = filepath.Join(dir, "file")
		if err := os.WriteFile(m.Kernel, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		m.Initramfs = []string{m.Kernel}
		m.Drives = []vmm.Drive{{Name: "a", Path: m.Kernel}, {Name: "b", Path: m.Kernel, ReadOnly: true}}
		return m
	}
	if err := check(good(), host{}); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(t.TempDir(), "missing")
	for name, c := range map[string]struct {
		change func(*vmm.Machine)
		want   fault.Kind
	}{
		"id with a comma":        {func(m *vmm.Machine) { m.ID = "a,b" }, fault.Invalid},
		"relative run directory": {func(m *vmm.Machine) { m.RunDir = "run" }, fault.Invalid},
		"no CPU":                 {func(m *vmm.Machine) { m.VCPUs = 0 }, fault.Invalid},
		"too many CPUs":          {func(m *vmm.Machine) { m.VCPUs = 1000 }, fault.Invalid},
		"odd memory":             {func(m *vmm.Machine) { m.Memory = model.MiB + 1 }, fault.Invalid},
		"no initramfs":           {func(m *vmm.Machine) { m.Initramfs = nil }, fault.Invalid},
		"long command line":      {func(m *vmm.Machine) { m.Cmdline = []string{strings.Repeat("x", 2000)} }, fault.Invalid},
		"two command lines":      {func(m *vmm.Machine) { m.Cmdline = []string{"a\nb"} }, fault.Invalid},
		"name with a comma":      {func(m *vmm.Machine) { m.Drives[0].Name = "a,readonly=on" }, fault.Invalid},
		"name twice":             {func(m *vmm.Machine) { m.Drives[1].Name = "a" }, fault.Invalid},
		"too many drives":        {func(m *vmm.Machine) { m.Drives = append(m.Drives, make([]vmm.Drive, 20)...) }, fault.Invalid},
		"unknown card":           {func(m *vmm.Machine) { m.NICs[0].Kind = "x" }, fault.Invalid},
		"two wires":              {func(m *vmm.Machine) { m.NICs = append(m.NICs, vmm.NIC{Kind: vmm.NICWire}) }, fault.Invalid},
		"long tap":               {func(m *vmm.Machine) { m.NICs[1].Tap = "0123456789abcdef" }, fault.Invalid},
		"short address":          {func(m *vmm.Machine) { m.NICs[0].MAC = []byte{1} }, fault.Invalid},
		"relative kernel":        {func(m *vmm.Machine) { m.Kernel = "vmlinux" }, fault.Invalid},
		"kernel is a directory":  {func(m *vmm.Machine) { m.Kernel = "/" }, fault.Invalid},
		"no kernel":              {func(m *vmm.Machine) { m.Kernel = missing }, fault.NotFound},
		"no drive":               {func(m *vmm.Machine) { m.Drives[0].Path = missing }, fault.NotFound},
	} {
		m := good()
		c.change(&m)
		if err := check(m, host{accel: TCG}); fault.KindOf(err) != c.want {
			t.Errorf("%s is not refused as %s: %v", name, c.want, err)
		}
	}
}
