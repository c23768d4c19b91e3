package vmmtest

import (
	"context"
	"errors"
	"syscall"
	"time"

	"banger/internal/fault"
	"banger/internal/vmm"
)

// pause halts a machine twice, presses its power button, on which nothing happens, and lets it go on, on which it powers off.
func (s *suite) pause() {
	in := s.pauser(s.start(s.h.Machine(s), ignore))
	if err := errors.Join(in.Resume(s.ctx), in.Pause(s.ctx), in.Pause(s.ctx)); err != nil {
		s.Fatal(err)
	}
	s.press(in)
	s.still(in)
	if err := errors.Join(in.Resume(s.ctx), context.Cause(s.ctx)); err != nil {
		s.Fatal(err)
	}
	s.ended(in, vmm.ExitPowerOff)
	if err := in.Pause(s.ctx); fault.KindOf(err) != fault.WrongState {
		s.Errorf("pausing what has ended: %v", err)
	}
	if err := in.Resume(s.ctx); fault.KindOf(err) != fault.WrongState {
		s.Errorf("resuming what has ended: %v", err)
	}
}

// pauseAdopted halts a machine, lets go of it, and adopts it, which does not make it go on.
func (s *suite) pauseAdopted() {
	in := s.pauser(s.start(s.h.Machine(s), ignore))
	if err := errors.Join(in.Pause(s.ctx), in.Close()); err != nil {
		s.Fatal(err)
	}
	again := s.pauser(s.adopted(in.State()))
	s.press(again)
	s.still(again)
	if err := again.Resume(s.ctx); err != nil {
		s.Fatal(err)
	}
	s.ended(again, vmm.ExitPowerOff)

	in = s.pauser(s.start(s.h.Machine(s), ignore))
	if err := errors.Join(in.Pause(s.ctx), in.Signal(syscall.SIGTERM)); err != nil {
		s.Fatal(err)
	}
	s.ended(in, vmm.ExitKilled) // a halted machine can be ended
}

// stillness is how long a machine that must not end is watched.
const stillness = 300 * time.Millisecond

// still checks that a machine whose button was pressed does not end.
func (s *suite) still(in vmm.Instance) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, stillness)
	defer cancel()
	if exit, err := in.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		s.Fatalf("a halted machine ended by %s (%s), %v", exit.Reason, exit.Detail, err)
	}
}

// pausable is an instance that can be halted.
type pausable interface {
	vmm.Instance
	vmm.Pauser
}

func (s *suite) pauser(in vmm.Instance) pausable {
	s.Helper()
	p, ok := in.(pausable)
	if !ok {
		s.Skip("the driver's machines cannot be halted")
	}
	return p
}
