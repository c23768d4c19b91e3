package vmmtest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"banger/internal/fault"
	"banger/internal/vmm"
)

// savable is an instance whose state can be saved.
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

// request returns a request for a new checkpoint.
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
		s.Fatalf("a machine that runs cannot be saved: %v", err)
	}
	if want := []string{"before", "still", "after"}; !slices.Equal(calls, want) {
		s.Errorf("a save calls %q, not %q", calls, want)
	}
	s.Logf("saved: %+v", saved)
	if saved.Pause <= 0 || saved.Device <= 0 || saved.Layout == nil {
		s.Errorf("a save does not report the pause, the size of the devices' state or the memory's layout: %+v", saved)
	}
	return s.checkpoint(req, saved)
}

// checkpoint opens what was saved.
func (s *suite) checkpoint(req vmm.SaveRequest, saved vmm.Saved) vmm.Checkpoint {
	s.Helper()
	device, err := os.Open(req.Device)
	if err != nil {
		s.Fatal(err)
	}
	s.ends = append(s.ends, func() { _ = device.Close() })
	if info, err := device.Stat(); err != nil || info.Mode().Perm() != 0o600 {
		s.Errorf("others may read the state of the devices: its mode is %v, %v", info.Mode(), err)
	}
	return vmm.Checkpoint{
		Memory: req.Memory, MemoryPath: req.Memory.Name(), Device: device, DevicePath: req.Device, Layout: saved.Layout,
	}
}

// saveHalted saves machines that are halted before, or stay halted afterwards.
func (s *suite) saveHalted() {
	for name, halt := range map[string]func(savable, *vmm.SaveRequest) error{
		"before": func(in savable, _ *vmm.SaveRequest) error { return in.Pause(s.ctx) },
		"after":  func(_ savable, req *vmm.SaveRequest) error { req.Halt = true; return nil },
	} {
		m, req := s.h.Machine(s), s.request()
		in := s.booted(m)
		if err := halt(in, &req); err != nil {
			s.Fatalf("a machine cannot be paused: %v", err)
		}
		saved, err := in.Save(s.ctx, req)
		if err != nil {
			s.Fatalf("a machine that is halted %s the save cannot be saved: %v", name, err)
		}
		if saved.Pause != 0 {
			s.Errorf("a save reports a pause of %v, but the machine is halted %s it", saved.Pause, name)
		}
		s.press(in)
		s.still(in)
		s.resume(in)
		s.poweredOff(in)
		fork := s.restore(like(s.h.Machine(s), m), s.checkpoint(req, saved), ignore) // which runs
		s.press(fork)
		s.poweredOff(fork)
		if _, err := in.Save(s.ctx, s.request()); fault.KindOf(err) != fault.WrongState {
			s.Errorf("saving a machine that has ended is not refused as a wrong state: %v", err)
		}
	}
}

// failedSave makes saves fail at each point. The machine continues each time: otherwise it would
// not power off at the end.
func (s *suite) failedSave() {
	m := s.h.Machine(s)
	in := s.booted(m)
	s.failInside(in)
	req := s.request()
	if err := os.WriteFile(req.Device, []byte("precious"), 0o600); err != nil {
		s.Fatal(err)
	}
	if _, err := in.Save(s.ctx, req); err == nil {
		s.Error("a save to a file that exists does not fail")
	}
	if text, err := os.ReadFile(req.Device); string(text) != "precious" {
		s.Errorf("a save changes a file that exists: it holds %.20q, %v", text, err)
	}
	req = s.request()
	if err := req.Memory.Close(); err != nil {
		s.Fatal(err)
	}
	if _, err := in.Save(s.ctx, req); err == nil {
		s.Error("a save to a closed file does not fail")
	}
	// Nothing of it prevents another save.
	fork := s.restore(like(s.h.Machine(s), m), s.save(in), ignore)
	for _, in := range []vmm.Instance{in, fork} {
		s.press(in)
		s.poweredOff(in)
	}
}

// failInside makes saves fail in the functions of the request.
func (s *suite) failInside(in savable) {
	broken := errors.New("broken")
	fails := func(context.Context) error { return broken }
	var cancel context.CancelCauseFunc
	cancels := func(context.Context) error { cancel(broken); return nil }
	for _, c := range []struct {
		name   string
		change func(*vmm.SaveRequest)
	}{
		{"Before fails", func(r *vmm.SaveRequest) { r.Before = fails }},
		{"Still fails", func(r *vmm.SaveRequest) { r.Still = fails }},
		{"Still fails, with Halt", func(r *vmm.SaveRequest) { r.Still, r.Halt = fails, true }},
		{"canceled in Before", func(r *vmm.SaveRequest) { r.Before = cancels }},
		{"canceled in Still", func(r *vmm.SaveRequest) { r.Still = cancels }},
	} {
		req, after := s.request(), false
		req.After = func() { after = true }
		c.change(&req)
		var ctx context.Context
		ctx, cancel = context.WithCancelCause(s.ctx)
		saved, err := in.Save(ctx, req)
		cancel(nil)
		if !errors.Is(err, broken) || saved != (vmm.Saved{}) {
			s.Errorf("%s: the save does not fail with that error and nothing else: %+v, %v", c.name, saved, err)
		}
		if halted := req.Still != nil; after != halted {
			s.Errorf("%s: After is called: %v; the machine was halted: %v", c.name, after, halted)
		}
		if _, err := os.Lstat(req.Device); !os.IsNotExist(err) {
			s.Errorf("%s: a failed save leaves the state of the devices (%v)", c.name, err)
		}
	}
}

// twoSaves saves a machine while another save of it is under way.
func (s *suite) twoSaves() {
	in := s.booted(s.h.Machine(s))
	begun, end := make(chan struct{}), make(chan struct{})
	first := s.request()
	first.Before = func(context.Context) error { close(begun); <-end; return nil }
	var group sync.WaitGroup
	group.Go(func() {
		if _, err := in.Save(s.ctx, first); err != nil {
			s.Errorf("a second save makes the first one fail: %v", err)
		}
	})
	<-begun
	second := s.request()
	if _, err := in.Save(s.ctx, second); fault.KindOf(err) != fault.Locked {
		s.Errorf("a second save at once is not refused as locked: %v", err)
	}
	close(end)
	group.Wait()
	s.save(in)
}
