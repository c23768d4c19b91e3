package vmmtest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"banger/internal/fault"
	"banger/internal/vmm"
)

// savable is an instance whose state can be kept.
type savable interface {
	vmm.Instance
	vmm.Saver
}

func (s *suite) saver(in vmm.Instance) savable {
	s.Helper()
	saver, ok := in.(savable)
	if !ok {
		s.Skip("the driver's machines cannot be saved")
	}
	return saver
}

// booted starts a machine that can be saved.
func (s *suite) booted(m vmm.Machine) savable {
	s.Helper()
	in := s.saver(s.start(m, ignore))
	if s.h.Booted != nil {
		s.h.Booted(s, in)
	}
	return in
}

// request returns one for a new checkpoint.
func (s *suite) request() vmm.SaveRequest {
	s.Helper()
	dir := s.TempDir()
	memory, err := os.OpenFile(filepath.Join(dir, "memory"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		s.Fatal(err)
	}
	s.ends = append(s.ends, func() { _ = memory.Close() })
	return vmm.SaveRequest{Memory: memory, Device: filepath.Join(dir, "device")}
}

// save saves a machine that runs.
func (s *suite) save(in savable) vmm.Checkpoint {
	s.Helper()
	req := s.request()
	var calls []string
	note := func(name string) func(context.Context) error {
		return func(context.Context) error { calls = append(calls, name); return nil }
	}
	req.Before, req.Still, req.After = note("before"), note("still"), func() { calls = append(calls, "after") }
	saved, err := in.Save(s.ctx, req)
	if err != nil {
		s.Fatal(err)
	}
	if want := []string{"before", "still", "after"}; !slices.Equal(calls, want) {
		s.Errorf("it called %q, not %q", calls, want)
	}
	s.Logf("saved: %+v", saved)
	if saved.Pause <= 0 || saved.Device <= 0 {
		s.Errorf("it was saved as %+v", saved)
	}
	return s.checkpoint(req)
}

// checkpoint opens what was saved.
func (s *suite) checkpoint(req vmm.SaveRequest) vmm.Checkpoint {
	s.Helper()
	device, err := os.Open(req.Device)
	if err != nil {
		s.Fatal(err)
	}
	s.ends = append(s.ends, func() { _ = device.Close() })
	if info, err := device.Stat(); err != nil || info.Mode().Perm() != 0o600 {
		s.Errorf("the state of the devices has mode %v, %v", info.Mode(), err)
	}
	return vmm.Checkpoint{Memory: req.Memory, Device: device}
}

// like gives a machine what another one boots from.
func like(m, other vmm.Machine) vmm.Machine {
	m.Kernel, m.Initramfs = other.Kernel, other.Initramfs
	return m
}

// restore restores a machine that ends with the test.
func (s *suite) restore(m vmm.Machine, from vmm.Checkpoint, intend func(vmm.State) error) savable {
	s.Helper()
	in, err := s.restorer().Restore(s.ctx, m, from, intend)
	if err != nil {
		s.Fatal(err)
	}
	s.later(in)
	return s.saver(in)
}

func (s *suite) restorer() vmm.Restorer {
	s.Helper()
	r, ok := s.h.Driver(s).(vmm.Restorer)
	if !ok {
		s.Skip("the driver restores nothing")
	}
	return r
}

// saveAndRestore makes two machines of one, which all go on.
func (s *suite) saveAndRestore() {
	m := s.h.Machine(s)
	in := s.booted(m)
	from := s.save(in)
	if info, err := from.Memory.Stat(); err != nil || info.Size() != int64(m.Memory) {
		s.Errorf("%d bytes were saved of %d, %v", info.Size(), m.Memory, err)
	}
	if _, err := from.Device.Seek(3, 0); err != nil { // it is read from its beginning all the same
		s.Fatal(err)
	}
	before, err := os.ReadFile(from.Memory.Name())
	if err != nil {
		s.Fatal(err)
	}
	var intended vmm.State
	one := s.restore(like(s.h.Machine(s), m), from, ignore)
	other := s.restore(like(s.h.Machine(s), m), from, func(state vmm.State) error {
		intended = bytes.Clone(state)
		return nil
	})
	for _, in := range []vmm.Instance{in, one} {
		s.press(in)
		s.ended(in, vmm.ExitPowerOff)
	}
	if err := other.Close(); err != nil {
		s.Fatal(err)
	}
	again := s.adopted(intended)
	if again.PID() != other.PID() || !bytes.Equal(again.State(), other.State()) {
		s.Errorf("adopted process %d as %s, was %d as %s", again.PID(), again.State(), other.PID(), other.State())
	}
	s.press(again)
	s.ended(again, vmm.ExitPowerOff)
	s.gone(intended)
	if after, err := os.ReadFile(from.Memory.Name()); err != nil || !bytes.Equal(before, after) {
		s.Errorf("the machines have changed the memory that they were restored from (%v)", err)
	}
}

// saveHalted saves machines that stand still before, or afterwards.
func (s *suite) saveHalted() {
	for name, halt := range map[string]func(savable, *vmm.SaveRequest) error{
		"before": func(in savable, _ *vmm.SaveRequest) error { return in.Pause(s.ctx) },
		"after":  func(_ savable, req *vmm.SaveRequest) error { req.Halt = true; return nil },
	} {
		m, req := s.h.Machine(s), s.request()
		in := s.booted(m)
		if err := halt(in, &req); err != nil {
			s.Fatal(err)
		}
		if saved, err := in.Save(s.ctx, req); err != nil || saved.Pause != 0 {
			s.Fatalf("halted %s: %+v, %v", name, saved, err)
		}
		s.press(in)
		s.still(in)
		if err := in.Resume(s.ctx); err != nil {
			s.Fatal(err)
		}
		s.ended(in, vmm.ExitPowerOff)
		fork := s.restore(like(s.h.Machine(s), m), s.checkpoint(req), ignore) // which runs
		s.press(fork)
		s.ended(fork, vmm.ExitPowerOff)
		if _, err := in.Save(s.ctx, s.request()); fault.KindOf(err) != fault.WrongState {
			s.Errorf("saving what has ended: %v", err)
		}
	}
}

// generations forks a machine, and forks the fork, the files before it gone, and let go of and adopted in between.
func (s *suite) generations() {
	m := s.h.Echo(s)
	in := s.saver(s.start(m, ignore))
	kept := []string{"a", "b", "c"}
	for i, word := range kept {
		s.echo(in, "keep "+word)
		from := s.save(in)
		s.echo(in, "keep nothing") // the parent goes on, and what it does is its own business
		fork := s.restore(like(s.h.Echo(s), m), from, ignore)
		s.kill(in.State())
		if err := errors.Join(os.Remove(from.Memory.Name()), os.Remove(from.Device.Name()), from.Memory.Close(), from.Device.Close()); err != nil {
			s.Fatal(err)
		}
		if i == 1 {
			if err := fork.Close(); err != nil {
				s.Fatal(err)
			}
			fork = s.saver(s.adopted(fork.State()))
		}
		s.ask(fork, "kept", "kept "+word)
		in = fork
	}
	s.press(in)
	s.ended(in, vmm.ExitPowerOff)
}

// failedSave makes saves fail at each point. The machine goes on each time: one that stays halted would do so to the end.
func (s *suite) failedSave() {
	m := s.h.Machine(s)
	in := s.booted(m)
	broken := errors.New("broken")
	fails := func(context.Context) error { return broken }
	var cancel context.CancelCauseFunc
	cancels := func(context.Context) error { cancel(broken); return nil }
	for _, c := range []struct {
		name   string
		change func(*vmm.SaveRequest)
	}{
		{"before", func(r *vmm.SaveRequest) { r.Before = fails }},
		{"still", func(r *vmm.SaveRequest) { r.Still = fails }},
		{"still, to be halted", func(r *vmm.SaveRequest) { r.Still, r.Halt = fails, true }},
		{"canceled before", func(r *vmm.SaveRequest) { r.Before = cancels }},
		{"canceled while still", func(r *vmm.SaveRequest) { r.Still = cancels }},
	} {
		req, wentOn := s.request(), false
		req.After = func() { wentOn = true }
		c.change(&req)
		var ctx context.Context
		ctx, cancel = context.WithCancelCause(s.ctx)
		if saved, err := in.Save(ctx, req); !errors.Is(err, broken) || saved != (vmm.Saved{}) {
			s.Errorf("%s: %+v, %v", c.name, saved, err)
		}
		if stood := req.Still != nil; wentOn != stood {
			s.Errorf("%s: it stood still: %v, and went on: %v", c.name, stood, wentOn)
		}
		cancel(nil)
		if _, err := os.Lstat(req.Device); !os.IsNotExist(err) {
			s.Errorf("%s: the state of the devices is left (%v)", c.name, err)
		}
	}
	req := s.request()
	if err := os.WriteFile(req.Device, []byte("precious"), 0o600); err != nil {
		s.Fatal(err)
	}
	if _, err := in.Save(s.ctx, req); err == nil {
		s.Error("it was saved over a file")
	}
	if text, err := os.ReadFile(req.Device); string(text) != "precious" {
		s.Errorf("a file holds %.20q now, %v", text, err)
	}
	req = s.request()
	if err := req.Memory.Close(); err != nil {
		s.Fatal(err)
	}
	if _, err := in.Save(s.ctx, req); err == nil {
		s.Error("it was saved to a file that is closed")
	}
	fork := s.restore(like(s.h.Machine(s), m), s.save(in), ignore) // nothing of it spoils another try
	for _, in := range []vmm.Instance{in, fork} {
		s.press(in)
		s.ended(in, vmm.ExitPowerOff)
	}
}

// twoSaves saves a machine while it is being saved.
func (s *suite) twoSaves() {
	in := s.booted(s.h.Machine(s))
	begun, end := make(chan struct{}), make(chan struct{})
	first := s.request()
	first.Before = func(context.Context) error { close(begun); <-end; return nil }
	var group sync.WaitGroup
	group.Go(func() {
		if _, err := in.Save(s.ctx, first); err != nil {
			s.Error(err)
		}
	})
	<-begun
	second := s.request()
	if _, err := in.Save(s.ctx, second); fault.KindOf(err) != fault.Locked {
		s.Errorf("saving it a second time at once: %v", err)
	}
	close(end)
	group.Wait()
	s.save(in)
}

// failedRestore restores from what is damaged.
func (s *suite) failedRestore() {
	saved := s.h.Machine(s)
	from := s.save(s.booted(saved))
	state, err := os.ReadFile(from.Device.Name())
	if err != nil {
		s.Fatal(err)
	}
	flipped := bytes.Clone(state)
	flipped[len(flipped)/2] ^= 1
	damaged := func(state []byte) vmm.Checkpoint {
		f, err := os.Create(filepath.Join(s.TempDir(), "device"))
		if err != nil {
			s.Fatal(err)
		}
		s.ends = append(s.ends, func() { _ = f.Close() })
		if _, err := f.Write(state); err != nil {
			s.Fatal(err)
		}
		return vmm.Checkpoint{Memory: from.Memory, Device: f}
	}
	short := s.request().Memory
	if err := short.Truncate(1 << 20 >> 1); err != nil {
		s.Fatal(err)
	}
	broken := errors.New("broken")
	var cancel context.CancelCauseFunc
	for name, c := range map[string]struct {
		from   vmm.Checkpoint
		intend func() error
		want   error
	}{
		"no state":      {from: damaged(nil)},
		"half a state":  {from: damaged(state[:len(state)/2])},
		"a byte less":   {from: damaged(state[:len(state)-1])},
		"a byte more":   {from: damaged(append(bytes.Clone(state), 0))},
		"a bit flipped": {from: damaged(flipped)},
		"short memory":  {from: vmm.Checkpoint{Memory: short, Device: from.Device}},
		"not stored":    {from: from, intend: func() error { return broken }, want: broken},
		"canceled":      {from: from, intend: func() error { cancel(broken); return nil }, want: broken},
	} {
		m := like(s.h.Machine(s), saved)
		before := s.entries(m.RunDir)
		var stored vmm.State
		var ctx context.Context
		ctx, cancel = context.WithCancelCause(s.ctx)
		in, err := s.restorer().Restore(ctx, m, c.from, func(state vmm.State) error {
			stored = bytes.Clone(state)
			if c.intend != nil {
				return c.intend()
			}
			return nil
		})
		cancel(nil)
		if err == nil {
			s.Errorf("%s: it was restored", name)
			_ = in.Close()
			s.kill(in.State())
			continue
		}
		if c.want != nil && !errors.Is(err, c.want) {
			s.Errorf("%s: %v", name, err)
		}
		s.Logf("%s: %v", name, err)
		s.nothingLeft(m, before, stored)
	}
}

// fingerprints compares machines that differ in one thing.
func (s *suite) fingerprints() {
	other := filepath.Join(s.TempDir(), "other")
	if err := os.WriteFile(other, []byte("other"), 0o600); err != nil {
		s.Fatal(err)
	}
	m := s.h.Machine(s)
	m.Drives = []vmm.Drive{{Serial: "a", Path: m.Kernel, ReadOnly: true}, {Serial: "b", Path: m.Kernel}}
	m.NICs = []vmm.NIC{{Kind: vmm.NICTap, Tap: "tap1", MAC: []byte{2, 0, 0, 0, 0, 1}}}
	print := func(change func(*vmm.Machine)) string {
		c := m
		c.Drives, c.NICs = append([]vmm.Drive(nil), m.Drives...), append([]vmm.NIC(nil), m.NICs...)
		change(&c)
		text, err := s.restorer().Fingerprint(s.ctx, c)
		if err != nil {
			s.Fatal(err)
		}
		return text
	}
	want := print(func(*vmm.Machine) {})
	for name, change := range map[string]func(*vmm.Machine){
		"id":       func(m *vmm.Machine) { m.ID = "another" },
		"folder":   func(m *vmm.Machine) { m.RunDir = s.TempDir() },
		"logs":     func(m *vmm.Machine) { m.ConsoleLog, m.VMMLog = other, other },
		"drive":    func(m *vmm.Machine) { m.Drives[1].Path = other },
		"address":  func(m *vmm.Machine) { m.NICs[0].MAC = []byte{2, 0, 0, 0, 0, 2} },
		"no MAC":   func(m *vmm.Machine) { m.NICs[0].MAC = nil },
		"tap name": func(m *vmm.Machine) { m.NICs[0].Tap = "tap2" },
	} {
		if got := print(change); got != want {
			s.Errorf("another %s makes another fingerprint", name)
		}
	}
	seen := map[string]string{want: "nothing"}
	for name, change := range map[string]func(*vmm.Machine){
		"vcpus":       func(m *vmm.Machine) { m.VCPUs++ },
		"memory":      func(m *vmm.Machine) { m.Memory *= 2 },
		"drives":      func(m *vmm.Machine) { m.Drives = m.Drives[:1] },
		"drive order": func(m *vmm.Machine) { m.Drives[0], m.Drives[1] = m.Drives[1], m.Drives[0] },
		"drive kind":  func(m *vmm.Machine) { m.Drives[1].ReadOnly = true },
		"card":        func(m *vmm.Machine) { m.NICs = nil },
		"card kind":   func(m *vmm.Machine) { m.NICs[0].Kind = vmm.NICUser },
		"kernel":      func(m *vmm.Machine) { m.Kernel = other },
		"initramfs":   func(m *vmm.Machine) { m.Initramfs = []string{other} },
		"cmdline":     func(m *vmm.Machine) { m.Cmdline = []string{"more"} },
	} {
		got := print(change)
		if like := seen[got]; like != "" {
			s.Errorf("%s makes the same fingerprint as %s", name, like)
		}
		seen[got] = name
	}
	boots := func(kernel string) string {
		return print(func(m *vmm.Machine) {
			m.Kernel, m.Initramfs, m.Cmdline = kernel, nil, nil
			m.Drives = nil
		})
	}
	if a, b := boots(""), boots(m.Kernel); a == b {
		s.Errorf("with and without a kernel: %s", a)
	}
	m.Kernel = filepath.Join(s.TempDir(), "missing")
	if text, err := s.restorer().Fingerprint(s.ctx, m); err == nil {
		s.Errorf("a kernel that is not there has fingerprint %s", text)
	}
}
