package vmmtest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"banger/internal/fault"
	"banger/internal/vmm"
)

func (s *suite) powerOff() {
	m := s.h.Machine(s)
	in := s.start(m, ignore)
	if in.PID() <= 0 || len(in.State()) == 0 {
		s.Errorf("a machine that runs has no pid or no state: %d, %q", in.PID(), in.State())
	}
	want := s.byGuest(vmm.ExitPowerOff)
	var waits sync.WaitGroup
	for range 4 {
		waits.Go(func() {
			if exit, err := in.Wait(s.ctx); err != nil || exit.Reason != want {
				s.Errorf("one of several waiters gets the reason %q (%s), not %q: %v", exit.Reason, exit.Detail, want, err)
			}
		})
	}
	s.press(in)
	waits.Wait()
	s.poweredOff(in) // the answer is the same for late callers
	if err := in.Signal(syscall.SIGTERM); err != nil {
		s.Errorf("signalling a machine that has ended is an error: %v", err)
	}
	s.gone(in.State(), m.RunDir)
}

// reboot checks that a guest's reboot ends its machine, and how that is reported.
func (s *suite) reboot() {
	m := s.h.Reboot(s)
	in := s.start(m, ignore)
	s.press(in)
	s.ended(in, s.byGuest(vmm.ExitReboot))
	s.gone(in.State(), m.RunDir)
}

func (s *suite) contexts() {
	starting, cancel := context.WithCancel(s.ctx)
	m := s.h.Machine(s)
	in, err := s.driver.Start(starting, m, ignore)
	if err != nil {
		s.Fatalf("a machine cannot be started: %v", err)
	}
	s.later(in, m.RunDir)
	cancel()
	why := errors.New("enough")
	waiting, stop := context.WithCancelCause(s.ctx)
	stop(why)
	if _, err := in.Wait(waiting); !errors.Is(err, why) {
		s.Errorf("waiting does not end with its context: %v", err)
	}
	s.press(in)
	s.poweredOff(in)
}

func (s *suite) killed() {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		m := s.h.Machine(s)
		in := s.start(m, ignore)
		if err := in.Signal(sig); err != nil {
			s.Fatalf("a machine cannot be signalled: %v", err)
		}
		s.ended(in, vmm.ExitKilled)
		s.gone(in.State(), m.RunDir)
	}
}

func (s *suite) twoMachines() {
	one, other := s.start(s.h.Machine(s), ignore), s.start(s.h.Machine(s), ignore)
	if one.PID() == other.PID() {
		s.Errorf("two machines have the same pid %d", one.PID())
	}
	if err := one.Signal(syscall.SIGKILL); err != nil {
		s.Fatalf("a machine cannot be killed: %v", err)
	}
	s.ended(one, vmm.ExitKilled)
	s.press(other)
	s.poweredOff(other)
}

func (s *suite) oneAtATime() {
	m := s.h.Machine(s)
	first := s.start(m, ignore)
	before := s.entries(m.RunDir)
	if _, err := s.h.Driver(s).Start(s.ctx, m, ignore); fault.KindOf(err) != fault.Locked {
		s.Errorf("a second machine in a run directory is not refused as locked: %v", err)
	}
	if after := s.entries(m.RunDir); len(after) != len(before) {
		s.Errorf("a refused start changes the run directory from %q to %q", before, after)
	}
	s.press(first)
	s.poweredOff(first)
	second := s.start(m, ignore)    // what the first machine left is no obstacle
	s.gone(first.State(), m.RunDir) // and the second machine is not taken for the first
	s.press(second)
	s.poweredOff(second)
}

func (s *suite) closed() {
	in := s.start(s.h.Machine(s), ignore)
	if err := errors.Join(in.Close(), in.Close()); err != nil {
		s.Fatalf("an instance cannot be closed twice: %v", err)
	}
	if _, err := in.Wait(s.ctx); fault.KindOf(err) != fault.Canceled {
		s.Errorf("waiting after Close does not end as canceled: %v", err)
	}
}

func (s *suite) stats() {
	in := s.start(s.h.Machine(s), ignore)
	measured, ok := in.(vmm.Statter)
	if !ok {
		s.Skip("the driver measures no costs")
	}
	if got, err := measured.Stats(); err != nil || got.Memory <= 0 || got.CPU < 0 {
		s.Errorf("the costs of a running machine are not plausible: %+v, %v", got, err)
	}
}

// openFiles replaces and removes the file of a drive while a machine has it open.
func (s *suite) openFiles() {
	m := s.h.Machine(s)
	drive := filepath.Join(s.TempDir(), "disk.img")
	const size = 64 << 10
	if err := os.WriteFile(drive, make([]byte, size), 0o600); err != nil {
		s.Fatal(err)
	}
	var rest []string
	for _, d := range m.Drives {
		rest = append(rest, d.Path)
	}
	m.Drives = append(m.Drives, vmm.Drive{Name: "watched", Path: drive})
	in := s.start(m, ignore)
	if _, ok := in.(vmm.FileHolder); !ok {
		s.Skip("the driver does not tell which files its VMM has open")
	}
	check := func(what string, want bool) {
		s.Helper()
		others, err := in.(vmm.FileHolder).Others(append(rest, drive)...)
		other, is := others[drive]
		if is = !is; err != nil || is != want || len(others) > 1 {
			s.Errorf("%s: the VMM has it open: %v, want %v; all others: %v: %v", what, is, want, others, err)
		}
		if data, err := os.ReadFile(other); !want && (err != nil || len(data) != size) {
			s.Errorf("%s: the open file has %d bytes at %q: %v", what, len(data), other, err)
		}
	}
	move := func(from, to string) {
		s.Helper()
		if err := os.Rename(from, to); err != nil {
			s.Fatal(err)
		}
	}
	check("the drive", true)
	moved, other := filepath.Join(s.TempDir(), "disk.img"), drive+".other"
	move(drive, moved)
	check("a drive that was moved away", false)
	move(moved, drive)
	check("a drive that came back", true)
	if err := os.WriteFile(other, make([]byte, 4<<10), 0o600); err != nil {
		s.Fatal(err)
	}
	move(other, drive)
	check("another file in its place", false)
	if err := in.Close(); err != nil {
		s.Fatal(err)
	}
	in, err := s.h.Driver(s).Adopt(s.ctx, in.State(), m.RunDir)
	if err != nil {
		s.Fatalf("a machine cannot be adopted: %v", err)
	}
	s.later(in, m.RunDir)
	check("another file in its place, after an adoption", false)
	if err := errors.Join(os.Remove(drive), in.Signal(syscall.SIGKILL)); err != nil {
		s.Fatal(err)
	}
	if _, err := in.Wait(s.ctx); err != nil {
		s.Fatalf("waiting for the end: %v", err)
	}
	if others, err := in.(vmm.FileHolder).Others(drive); len(others) > 0 || err == nil {
		s.Errorf("of a machine that has ended, somebody can tell what it has open: %v", others)
	}
}
