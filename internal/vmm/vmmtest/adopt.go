package vmmtest

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"syscall"

	"banger/internal/fault"
	"banger/internal/vmm"
)

func (s *suite) adopt() {
	in := s.start(s.h.Machine(s), ignore)
	if err := in.Close(); err != nil {
		s.Fatal(err)
	}
	again := s.adopted(in.State())
	if again.PID() != in.PID() || !bytes.Equal(again.State(), in.State()) {
		s.Errorf("adopted process %d as %s, was %d as %s", again.PID(), again.State(), in.PID(), in.State())
	}
	s.press(again)
	s.ended(again, vmm.ExitPowerOff)
	s.gone(in.State())

	in = s.start(s.h.Machine(s), ignore)
	if err := in.Close(); err != nil {
		s.Fatal(err)
	}
	again = s.adopted(in.State())
	if err := again.Signal(syscall.SIGKILL); err != nil {
		s.Fatal(err)
	}
	s.ended(again, vmm.ExitKilled)
}

func (s *suite) adoptIntended() {
	var intended vmm.State
	in := s.start(s.h.Machine(s), func(state vmm.State) error {
		intended = bytes.Clone(state)
		return nil
	})
	if err := in.Close(); err != nil {
		s.Fatal(err)
	}
	again := s.adopted(intended)
	if again.PID() != in.PID() {
		s.Errorf("found process %d, not %d", again.PID(), in.PID())
	}
	if !bytes.Equal(again.State(), in.State()) {
		s.Errorf("its state is %s, not %s", again.State(), in.State())
	}
	s.press(again)
	s.ended(again, vmm.ExitPowerOff)
	s.gone(intended)
}

func (s *suite) adoptEnded() {
	in := s.start(s.h.Machine(s), ignore)
	state := in.State()
	other := s.adoptedKiller(in)
	s.ended(other, vmm.ExitKilled)
	s.gone(state)
}

// adoptedKiller lets go of a machine, adopts it and kills it.
func (s *suite) adoptedKiller(in vmm.Instance) vmm.Instance {
	s.Helper()
	if err := in.Close(); err != nil {
		s.Fatal(err)
	}
	other := s.adopted(in.State())
	if err := other.Signal(syscall.SIGKILL); err != nil {
		s.Fatal(err)
	}
	return other
}

func (s *suite) adoptGarbage() {
	for _, state := range []string{"", "{", "null", "[]", `{"version":0}`, `{"version":1000000}`} {
		if _, err := s.driver.Adopt(s.ctx, vmm.State(state)); err == nil || fault.KindOf(err) == fault.NotFound {
			s.Errorf("adopting %q: %v", state, err) // not found would say that it may be forgotten
		}
	}
}

func (s *suite) find() {
	finder, ok := s.h.Driver(s).(vmm.Finder)
	if !ok {
		s.Skip("the driver needs its state")
	}
	m := s.h.Machine(s)
	missing := func(dir string) {
		if _, err := finder.Find(s.ctx, dir); fault.KindOf(err) != fault.NotFound {
			s.Errorf("finding what is not in %s: %v", dir, err)
		}
	}
	missing(m.RunDir)
	missing(filepath.Join(m.RunDir, "missing"))
	in := s.start(m, ignore)
	if err := in.Close(); err != nil {
		s.Fatal(err)
	}
	found, err := finder.Find(s.ctx, m.RunDir)
	if err != nil {
		s.Fatal(err)
	}
	defer found.Close()
	if found.PID() != in.PID() {
		s.Errorf("found process %d, not %d", found.PID(), in.PID())
	}
	s.press(found)
	s.ended(found, vmm.ExitPowerOff)
	missing(m.RunDir)
}

func (s *suite) failedStart() {
	broken := errors.New("broken")
	missing := filepath.Join(s.TempDir(), "missing")
	for name, c := range map[string]struct {
		change func(*vmm.Machine)
		intend error
	}{
		"no kernel":           {change: func(m *vmm.Machine) { m.Kernel = missing }},
		"kernel is no file":   {change: func(m *vmm.Machine) { m.Kernel = m.RunDir }},
		"no initramfs":        {change: func(m *vmm.Machine) { m.Initramfs = []string{missing} }},
		"no drive":            {change: func(m *vmm.Machine) { m.Drives = []vmm.Drive{{Serial: "a", Path: missing}} }},
		"no run folder":       {change: func(m *vmm.Machine) { m.RunDir = missing }},
		"no log's folder":     {change: func(m *vmm.Machine) { m.VMMLog = filepath.Join(missing, "log") }},
		"no console's folder": {change: func(m *vmm.Machine) { m.ConsoleLog = filepath.Join(missing, "log") }},
		"no CPU":              {change: func(m *vmm.Machine) { m.VCPUs = 0 }},
		"no memory":           {change: func(m *vmm.Machine) { m.Memory = 0 }},
		"not stored":          {intend: broken},
	} {
		m := s.h.Machine(s)
		if c.change != nil {
			c.change(&m)
		}
		before := s.entries(m.RunDir)
		var state vmm.State
		in, err := s.driver.Start(s.ctx, m, func(st vmm.State) error {
			state = bytes.Clone(st)
			return c.intend
		})
		if err == nil {
			s.Errorf("%s: it started", name)
			_ = in.Signal(syscall.SIGKILL)
			_ = in.Close()
			continue
		}
		if c.intend != nil && !errors.Is(err, c.intend) {
			s.Errorf("%s: %v", name, err)
		}
		s.Logf("%s: %v", name, err)
		s.nothingLeft(m, before, state)
	}
}

func (s *suite) canceledStart() {
	m := s.h.Machine(s)
	before := s.entries(m.RunDir)
	ctx, cancel := context.WithCancelCause(s.ctx)
	why := errors.New("changed my mind")
	var state vmm.State
	in, err := s.driver.Start(ctx, m, func(st vmm.State) error {
		state = bytes.Clone(st)
		cancel(why)
		return nil
	})
	if err == nil {
		_ = in.Close()
		s.kill(in.State())
		s.Fatal("it started")
	}
	if !errors.Is(err, why) {
		s.Errorf("got %v", err)
	}
	s.nothingLeft(m, before, state)
	s.press(s.start(m, ignore)) // and a second start works
}

// nothingLeft checks that a failed start left no machine and nothing new in the run folder.
func (s *suite) nothingLeft(m vmm.Machine, before []string, state vmm.State) {
	s.Helper()
	if after := s.entries(m.RunDir); len(after) != len(before) {
		s.Errorf("the run folder held %q, now %q", before, after)
	}
	if state != nil {
		s.gone(state)
	}
}
