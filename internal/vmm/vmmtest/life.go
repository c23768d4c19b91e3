package vmmtest

import (
	"context"
	"errors"
	"sync"
	"syscall"

	"banger/internal/fault"
	"banger/internal/vmm"
)

func (s *suite) powerOff() {
	in := s.start(s.h.Machine(s), ignore)
	if in.PID() <= 0 || len(in.State()) == 0 {
		s.Errorf("pid %d, state %q", in.PID(), in.State())
	}
	var waits sync.WaitGroup
	for range 4 {
		waits.Go(func() {
			if exit, err := in.Wait(s.ctx); err != nil || exit.Reason != vmm.ExitPowerOff {
				s.Errorf("it ended by %s (%s), %v", exit.Reason, exit.Detail, err)
			}
		})
	}
	s.press(in)
	waits.Wait()
	s.ended(in, vmm.ExitPowerOff) // also for those who come late
	if err := in.Signal(syscall.SIGTERM); err != nil {
		s.Errorf("signalling what has ended: %v", err)
	}
	s.gone(in.State())
}

func (s *suite) contexts() {
	starting, cancel := context.WithCancel(s.ctx)
	m := s.h.Machine(s)
	in, err := s.driver.Start(starting, m, ignore)
	if err != nil {
		s.Fatal(err)
	}
	s.later(in)
	cancel()
	why := errors.New("enough")
	waiting, stop := context.WithCancelCause(s.ctx)
	stop(why)
	if _, err := in.Wait(waiting); !errors.Is(err, why) {
		s.Errorf("waiting with an ended context: %v", err)
	}
	s.press(in)
	s.ended(in, vmm.ExitPowerOff)
}

func (s *suite) killed() {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		in := s.start(s.h.Machine(s), ignore)
		if err := in.Signal(sig); err != nil {
			s.Fatal(err)
		}
		s.ended(in, vmm.ExitKilled)
		s.gone(in.State())
	}
}

func (s *suite) twoMachines() {
	one, other := s.start(s.h.Machine(s), ignore), s.start(s.h.Machine(s), ignore)
	if one.PID() == other.PID() {
		s.Errorf("both have pid %d", one.PID())
	}
	if err := one.Signal(syscall.SIGKILL); err != nil {
		s.Fatal(err)
	}
	s.ended(one, vmm.ExitKilled)
	s.press(other)
	s.ended(other, vmm.ExitPowerOff)
}

func (s *suite) oneAtATime() {
	m := s.h.Machine(s)
	first := s.start(m, ignore)
	before := s.entries(m.RunDir)
	if _, err := s.h.Driver(s).Start(s.ctx, m, ignore); fault.KindOf(err) != fault.Locked {
		s.Errorf("starting a second machine there: %v", err)
	}
	if after := s.entries(m.RunDir); len(after) != len(before) {
		s.Errorf("the run folder held %q, now %q", before, after)
	}
	s.press(first)
	s.ended(first, vmm.ExitPowerOff)
	second := s.start(m, ignore) // what the first one left is no obstacle
	s.gone(first.State())        // and the second one is not the first
	s.press(second)
	s.ended(second, vmm.ExitPowerOff)
}

func (s *suite) closed() {
	in := s.start(s.h.Machine(s), ignore)
	if err := errors.Join(in.Close(), in.Close()); err != nil {
		s.Fatal(err)
	}
	if _, err := in.Wait(s.ctx); fault.KindOf(err) != fault.Canceled {
		s.Errorf("waiting after Close: %v", err)
	}
}

func (s *suite) stats() {
	in := s.start(s.h.Machine(s), ignore)
	measured, ok := in.(vmm.Statter)
	if !ok {
		s.Skip("the driver measures nothing")
	}
	if got, err := measured.Stats(); err != nil || got.Memory <= 0 || got.CPU < 0 {
		s.Errorf("stats %+v: %v", got, err)
	}
}
