// Package vmmtest is the conformance suite of package vmm's drivers: what every driver, and the fake that stands for one in other
// packages' tests, must do alike.
package vmmtest

import (
	"context"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"banger/internal/fault"
	"banger/internal/vmm"
)

// Harness is what the suite needs from a driver's tests.
type Harness struct {
	// Driver returns a new driver, as a daemon has it after a restart: it shares nothing in memory with those before.
	Driver func(t testing.TB) vmm.Driver
	// Machine returns a machine with a run folder of its own whose guest powers off when its power button is pressed, and else
	// runs for ever.
	Machine func(t testing.TB) vmm.Machine
	// Booted returns when such a machine's guest runs; nil when it does from the start on. Before that, a machine may be in its firmware, which
	// wants to boot what a restored machine does not have.
	Booted func(t testing.TB, in vmm.Instance)
	// Echo returns a machine like Machine's whose guest also sends back what comes in on the agent's channel. Of a line "keep X" it keeps X
	// in its memory as well, and on a line "kept" it says "kept X" instead. It skips the test when there can be none.
	Echo func(t testing.TB) vmm.Machine
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	for _, c := range []struct {
		name string
		test func(*suite)
	}{
		{"start and power off", (*suite).powerOff},
		{"the end of a context ends no machine", (*suite).contexts},
		{"killed", (*suite).killed},
		{"two side by side", (*suite).twoMachines},
		{"one at a time in a run folder", (*suite).oneAtATime},
		{"adopt", (*suite).adopt},
		{"adopt what was only intended", (*suite).adoptIntended},
		{"adopt nothing that has ended", (*suite).adoptEnded},
		{"adopt nothing that cannot be read", (*suite).adoptGarbage},
		{"find", (*suite).find},
		{"wait after close", (*suite).closed},
		{"stats", (*suite).stats},
		{"a failed start leaves nothing", (*suite).failedStart},
		{"a canceled start leaves nothing", (*suite).canceledStart},
		{"agent", (*suite).agent},
		{"pause and resume", (*suite).pause},
		{"adopt what is halted", (*suite).pauseAdopted},
		{"save and restore", (*suite).saveAndRestore},
		{"save what is halted", (*suite).saveHalted},
		{"a fork of a fork", (*suite).generations},
		{"a failed save lets the machine go on", (*suite).failedSave},
		{"one save at a time", (*suite).twoSaves},
		{"a failed restore leaves nothing", (*suite).failedRestore},
		{"fingerprints", (*suite).fingerprints},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			running := goleak.IgnoreCurrent()
			s := &suite{T: t, h: h, ctx: ctx, driver: h.Driver(t)}
			defer goleak.VerifyNone(t, running)
			defer s.end()
			c.test(s)
		})
	}
}

type suite struct {
	*testing.T
	h      Harness
	ctx    context.Context
	driver vmm.Driver
	ends   []func()
}

// end undoes what a test has begun, the last first.
func (s *suite) end() {
	for _, end := range slices.Backward(s.ends) {
		end()
	}
}

func ignore(vmm.State) error { return nil }

// start starts a machine that ends with the test.
func (s *suite) start(m vmm.Machine, intend func(vmm.State) error) vmm.Instance {
	s.Helper()
	in, err := s.driver.Start(s.ctx, m, intend)
	if err != nil {
		s.Fatal(err)
	}
	s.later(in)
	return in
}

// later lets the machine end with the test.
func (s *suite) later(in vmm.Instance) {
	state := in.State()
	s.ends = append(s.ends, func() { s.kill(state) }, func() {
		if err := in.Close(); err != nil {
			s.Error(err)
		}
	})
}

// kill ends a machine, if it is still there, in the way of a stranger.
func (s *suite) kill(state vmm.State) {
	s.Helper()
	in, err := s.h.Driver(s).Adopt(s.ctx, state)
	if fault.KindOf(err) == fault.NotFound {
		return
	} else if err != nil {
		s.Fatal(err)
	}
	if err := in.Signal(syscall.SIGKILL); err != nil {
		s.Error(err)
	}
	s.ended(in, "")
	if err := in.Close(); err != nil {
		s.Error(err)
	}
}

// adopted adopts a machine with a new driver.
func (s *suite) adopted(state vmm.State) vmm.Instance {
	s.Helper()
	in, err := s.h.Driver(s).Adopt(s.ctx, state)
	if err != nil {
		s.Fatal(err)
	}
	s.ends = append(s.ends, func() { _ = in.Close() })
	return in
}

// ended waits for a machine's end and checks its reason, unless that is "".
func (s *suite) ended(in vmm.Instance, want vmm.ExitReason) {
	s.Helper()
	exit, err := in.Wait(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	if want != "" && exit.Reason != want {
		s.Errorf("it ended by %s (%s), not %s", exit.Reason, exit.Detail, want)
	}
}

// press presses the power button.
func (s *suite) press(in vmm.Instance) {
	s.Helper()
	if err := in.PowerOff(s.ctx); err != nil {
		s.Fatal(err)
	}
}

// gone checks that no machine is there for a state.
func (s *suite) gone(state vmm.State) {
	s.Helper()
	in, err := s.h.Driver(s).Adopt(s.ctx, state)
	if fault.KindOf(err) != fault.NotFound {
		s.Errorf("adopting what is gone: %v", err)
	}
	if err == nil {
		_ = in.Close()
	}
}

// entries lists a folder; nil when it does not exist.
func (s *suite) entries(dir string) []string {
	s.Helper()
	list, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		s.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}
