package vmmtest

import (
	"context"
	"errors"
	"syscall"
	"time"

	"banger/internal/fault"
	"banger/internal/vmm"
)

// pause halts a machine twice and presses its power button: nothing happens until it continues.
// Then it powers off.
func (s *suite) pause() {
	in := s.pauser(s.start(s.h.Machine(s), ignore))
	if err := errors.Join(in.Resume(s.ctx), in.Pause(s.ctx), in.Pause(s.ctx)); err != nil {
		s.Fatalf("resuming a running machine, pausing it, or pausing it twice is an error: %v", err)
	}
	s.press(in)
	s.still(in)
	s.resume(in)
	s.poweredOff(in)
	if err := in.Pause(s.ctx); fault.KindOf(err) != fault.WrongState {
		s.Errorf("pausing a machine that has ended is not refused as a wrong state: %v", err)
	}
	if err := in.Resume(s.ctx); fault.KindOf(err) != fault.WrongState {
		s.Errorf("resuming a machine that has ended is not refused as a wrong state: %v", err)
	}
}

// pauseAdopted halts a machine, closes its instance and adopts it: it stays halted.
func (s *suite) pauseAdopted() {
	m := s.h.Machine(s)
	in := s.pauser(s.start(m, ignore))
	if err := errors.Join(in.Pause(s.ctx), in.Close()); err != nil {
		s.Fatalf("a machine cannot be paused and its instance closed: %v", err)
	}
	again := s.pauser(s.adopted(in.State(), m.RunDir))
	s.press(again)
	s.still(again)
	s.resume(again)
	s.poweredOff(again)

	in = s.pauser(s.start(s.h.Machine(s), ignore))
	if err := errors.Join(in.Pause(s.ctx), in.Signal(syscall.SIGTERM)); err != nil {
		s.Fatalf("a halted machine cannot be signalled: %v", err)
	}
	s.ended(in, vmm.ExitKilled)
}

// resume continues a machine.
func (s *suite) resume(in pausable) {
	s.Helper()
	if err := in.Resume(s.ctx); err != nil {
		s.Fatalf("a halted machine cannot be resumed: %v", err)
	}
}

// stillness is how long a machine that must not end is watched.
const stillness = 300 * time.Millisecond

// still checks that a machine whose button was pressed does not end.
func (s *suite) still(in vmm.Instance) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, stillness)
	defer cancel()
	if exit, err := in.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		s.Fatalf("a halted machine does not stay: it ended by %q (%s), %v", exit.Reason, exit.Detail, err)
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
