package vmmtest

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"banger/internal/fault"
	"banger/internal/vmm"
)

func (s *suite) adopt() {
	m := s.h.Machine(s)
	in := s.start(m, ignore)
	s.close(in)
	again := s.adopted(in.State(), m.RunDir)
	if again.PID() != in.PID() || !bytes.Equal(again.State(), in.State()) {
		s.Errorf("adopting changes the process or the state: from %d, %s to %d, %s", in.PID(), in.State(), again.PID(), again.State())
	}
	s.press(again)
	s.poweredOff(again)
	s.gone(in.State(), m.RunDir)

	in = s.start(m, ignore)
	s.close(in)
	again = s.adopted(in.State(), m.RunDir)
	if err := again.Signal(syscall.SIGKILL); err != nil {
		s.Fatalf("a machine cannot be killed: %v", err)
	}
	s.ended(again, vmm.ExitKilled)
}

func (s *suite) adoptIntended() {
	m := s.h.Machine(s)
	var intended vmm.State
	in := s.start(m, func(state vmm.State) error {
		intended = bytes.Clone(state)
		return nil
	})
	s.close(in)
	again := s.adopted(intended, m.RunDir)
	if again.PID() != in.PID() {
		s.Errorf("the intended state leads to process %d, not %d", again.PID(), in.PID())
	}
	if !bytes.Equal(again.State(), in.State()) {
		s.Errorf("a machine adopted by its intended state has the state %s, not %s", again.State(), in.State())
	}
	s.press(again)
	s.poweredOff(again)
	s.gone(intended, m.RunDir)
}

func (s *suite) adoptEnded() {
	m := s.h.Machine(s)
	in := s.start(m, ignore)
	state := in.State()
	other := s.adoptedKiller(in, m.RunDir)
	s.ended(other, vmm.ExitKilled)
	s.gone(state, m.RunDir)
}

// adoptedKiller closes the instance of a machine, adopts the machine, and kills it.
func (s *suite) adoptedKiller(in vmm.Instance, runDir string) vmm.Instance {
	s.Helper()
	s.close(in)
	other := s.adopted(in.State(), runDir)
	if err := other.Signal(syscall.SIGKILL); err != nil {
		s.Fatalf("a machine cannot be killed: %v", err)
	}
	return other
}

func (s *suite) adoptGarbage() {
	for _, state := range []string{"", "{", "null", "[]", `{"version":0}`, `{"version":1000000}`} {
		if _, err := s.driver.Adopt(s.ctx, vmm.State(state), s.TempDir()); err == nil || fault.KindOf(err) == fault.NotFound {
			// Not found would mean that the machine has ended.
			s.Errorf("a state that cannot be read is accepted, or taken for that of a machine that has ended: %q: %v", state, err)
		}
	}
}

// adoptForeign has the states of a machine in a copy of its run directory, as in a copied home. The
// machine is the original's.
func (s *suite) adoptForeign() {
	m := s.h.Machine(s)
	states := map[string]vmm.State{}
	in := s.start(m, func(state vmm.State) error {
		states["intended"] = bytes.Clone(state)
		return nil
	})
	states["started"] = in.State()
	for how, cp := range map[string]func(dir string) error{
		"copied":              func(dir string) error { return os.CopyFS(dir, filesIn(m.RunDir)) },
		"copied by links":     func(dir string) error { return linkAll(m.RunDir, dir) },
		"without any file":    func(dir string) error { return os.Mkdir(dir, 0o700) },
		"without a directory": func(string) error { return nil },
	} {
		dir := filepath.Join(s.TempDir(), filepath.Base(m.RunDir))
		if err := cp(dir); err != nil {
			s.Fatal(err)
		}
		for kind, state := range states {
			other, err := s.h.Driver(s).Adopt(s.ctx, state, dir)
			if err == nil {
				_ = other.Close()
			}
			if kind == "started" && fault.KindOf(err) != fault.WrongState || fault.KindOf(err) != fault.WrongState && fault.KindOf(err) != fault.NotFound {
				s.Errorf("a machine is adopted in a directory that was %s, by its %s state: %v", how, kind, err)
			}
		}
		finder, ok := s.h.Driver(s).(vmm.Finder)
		if !ok {
			continue
		}
		if _, err := finder.Find(s.ctx, dir); fault.KindOf(err) != fault.WrongState && fault.KindOf(err) != fault.NotFound {
			s.Errorf("a machine is found in a directory that was %s: %v", how, err)
		}
	}
	s.press(in)
	s.poweredOff(in)
}

// filesIn is the regular files of a directory: a copy of a socket reaches nobody.
func filesIn(dir string) fs.FS { return regular{os.DirFS(dir)} }

type regular struct{ fs.FS }

func (r regular) ReadDir(name string) ([]fs.DirEntry, error) {
	list, err := fs.ReadDir(r.FS, name)
	return slices.DeleteFunc(list, func(e fs.DirEntry) bool { return !e.Type().IsRegular() }), err
}

// linkAll makes a directory with hard links to all files of another.
func linkAll(from, to string) error {
	list, err := os.ReadDir(from)
	err = errors.Join(err, os.Mkdir(to, 0o700))
	for _, e := range list {
		err = errors.Join(err, os.Link(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())))
	}
	return err
}

func (s *suite) find() {
	finder, ok := s.h.Driver(s).(vmm.Finder)
	if !ok {
		s.Skip("the driver does not find machines without their state")
	}
	m := s.h.Machine(s)
	missing := func(dir string) {
		if _, err := finder.Find(s.ctx, dir); fault.KindOf(err) != fault.NotFound {
			s.Errorf("finding a machine in %s, where none is, does not report that it is not found: %v", dir, err)
		}
	}
	missing(m.RunDir)
	missing(filepath.Join(m.RunDir, "missing"))
	in := s.start(m, ignore)
	s.close(in)
	found, err := finder.Find(s.ctx, m.RunDir)
	if err != nil {
		s.Fatalf("a machine is not found by its run directory: %v", err)
	}
	defer found.Close()
	if found.PID() != in.PID() {
		s.Errorf("the run directory leads to process %d, not %d", found.PID(), in.PID())
	}
	s.press(found)
	s.poweredOff(found)
	missing(m.RunDir)
}

func (s *suite) failedStart() {
	broken := errors.New("broken")
	missing := filepath.Join(s.TempDir(), "missing")
	for name, c := range map[string]struct {
		change func(*vmm.Machine)
		intend error
	}{
		"no kernel":                         {change: func(m *vmm.Machine) { m.Kernel = missing }},
		"the kernel is a directory":         {change: func(m *vmm.Machine) { m.Kernel = m.RunDir }},
		"no initramfs":                      {change: func(m *vmm.Machine) { m.Initramfs = []string{missing} }},
		"no drive":                          {change: func(m *vmm.Machine) { m.Drives = []vmm.Drive{{Name: "a", Path: missing}} }},
		"no run directory":                  {change: func(m *vmm.Machine) { m.RunDir = missing }},
		"no directory of the log":           {change: func(m *vmm.Machine) { m.VMMLog = filepath.Join(missing, "log") }},
		"no directory of the console's log": {change: func(m *vmm.Machine) { m.ConsoleLog = filepath.Join(missing, "log") }},
		"no CPU":                            {change: func(m *vmm.Machine) { m.VCPUs = 0 }},
		"no memory":                         {change: func(m *vmm.Machine) { m.Memory = 0 }},
		"the state is not stored":           {intend: broken},
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
			s.Errorf("%s: the start does not fail", name)
			_ = in.Signal(syscall.SIGKILL)
			_ = in.Close()
			continue
		}
		if c.intend != nil && !errors.Is(err, c.intend) {
			s.Errorf("%s: the start fails with another error: %v", name, err)
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
		s.kill(in.State(), m.RunDir)
		s.Fatal("a canceled start does not fail")
	}
	if !errors.Is(err, why) {
		s.Errorf("a canceled start does not return the cause: %v", err)
	}
	s.nothingLeft(m, before, state)
	s.press(s.start(m, ignore)) // a second start works
}

// nothingLeft checks that a failed start left no machine, and nothing new in the run directory.
func (s *suite) nothingLeft(m vmm.Machine, before []string, state vmm.State) {
	s.Helper()
	if after := s.entries(m.RunDir); len(after) != len(before) {
		s.Errorf("a failed start leaves something in the run directory: %q, before %q", after, before)
	}
	if state != nil {
		s.gone(state, m.RunDir)
	}
}
