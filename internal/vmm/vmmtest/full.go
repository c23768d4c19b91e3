package vmmtest

import (
	"context"
	"time"

	"banger/internal/fault"
	"banger/internal/vmm"
)

// haltable is an instance that reports whether its machine is halted.
type haltable interface {
	pausable
	vmm.HaltReporter
}

func (s *suite) haltReporter(in vmm.Instance) haltable {
	s.Helper()
	h, ok := in.(haltable)
	if !ok {
		s.Skip("the driver's machines do not report that they are halted")
	}
	return h
}

// fullHost lets a guest write where the host has no room. The machine halts, and says so after an
// adoption too. The guest sees no error: the write is tried again when the machine is resumed.
func (s *suite) fullHost() {
	m, makeRoom := s.h.Full(s)
	in := s.haltReporter(s.start(m, ignore))
	s.echo(in, "hello")
	s.halted(in, vmm.NotHalted)
	s.write(in)
	s.resume(in)
	s.awaitHalt(in, vmm.HaltedFull)

	s.close(in)
	again := s.haltReporter(s.adopted(in.State(), m.RunDir))
	s.halted(again, vmm.HaltedFull)
	makeRoom()
	s.resume(again)
	s.ask(again, "kept", "kept written")
	s.halted(again, vmm.NotHalted)
	if err := again.Pause(s.ctx); err != nil {
		s.Fatalf("a machine cannot be paused: %v", err)
	}
	s.halted(again, vmm.Halted)
	s.resume(again)
	s.press(again)
	s.poweredOff(again)
	if _, err := again.Halted(s.ctx); fault.KindOf(err) != fault.WrongState {
		s.Errorf("asking a machine that has ended whether it is halted is not a wrong state: %v", err)
	}
}

// write makes a guest write, and waits until its machine is halted because of that.
func (s *suite) write(in haltable) {
	s.Helper()
	conn, err := in.DialAgent(s.ctx)
	if err != nil {
		s.Fatalf("connecting to the agent of a running machine fails: %v", err)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		again(ctx, conn, "write")
	}()
	s.awaitHalt(in, vmm.HaltedFull)
	cancel()
	_ = conn.Close()
	<-sent
}

func (s *suite) halted(in haltable, want vmm.Halt) {
	s.Helper()
	if got, err := in.Halted(s.ctx); err != nil || got != want {
		s.Errorf("the machine reports the halt %q, %v; want %q", got, err, want)
	}
}

// awaitHalt waits until the machine reports that halt.
func (s *suite) awaitHalt(in haltable, want vmm.Halt) {
	s.Helper()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		got, err := in.Halted(s.ctx)
		if got == want {
			return
		}
		select {
		case <-look.C:
		case <-s.ctx.Done():
			s.Fatalf("the machine reports the halt %q, %v; want %q", got, err, want)
		}
	}
}
