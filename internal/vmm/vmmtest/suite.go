// Package vmmtest is the conformance suite of the drivers of package vmm. Every driver must pass
// it, and so must the fake that stands for a driver in other packages' tests.
//
// A failure names the claim that does not hold.
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
	"banger/internal/pace"
	"banger/internal/vmm"
)

// Harness is what the suite needs from the tests of a driver.
type Harness struct {
	// Driver returns a new driver, as a restarted daemon has it. It shares no memory with earlier
	// ones.
	Driver func(t testing.TB) vmm.Driver
	// Machine returns a machine with a run directory of its own. Its guest powers off when its
	// power button is pressed. Otherwise it runs for ever.
	Machine func(t testing.TB) vmm.Machine
	// Reboot returns a machine whose guest reboots when its power button is pressed.
	Reboot func(t testing.TB) vmm.Machine
	// Booted returns when the guest of such a machine runs. Before, a machine may be in its
	// firmware, which wants to boot what a restored machine does not have. Nil: guests run from
	// the start.
	Booted func(t testing.TB, in vmm.Instance)
	// Echo returns a machine like that of Machine, whose guest answers the lines that come in on
	// the agent's channel: see Answer. With a NICWire it answers frames: see EchoRequest. From the
	// line "flood" to "calm" it sends frames. If there can be none, it skips the test.
	Echo func(t testing.TB) vmm.Machine
	// Full returns a machine like that of Echo, whose drive "system" is on a file system without
	// room, and a function that makes room. If there can be none, it skips the test.
	Full func(t testing.TB) (m vmm.Machine, makeRoom func())
	// Tap returns the name of a tap that a machine may use if the same goroutine starts it. Nil:
	// any name will do.
	Tap func(t testing.TB) string
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	for _, c := range []struct {
		name string
		test func(*suite)
	}{
		{"info", (*suite).info},
		{"features", (*suite).features},
		{"start and power off", (*suite).powerOff},
		{"reboot", (*suite).reboot},
		{"the end of a context ends no machine", (*suite).contexts},
		{"killed", (*suite).killed},
		{"two side by side", (*suite).twoMachines},
		{"one at a time in a run directory", (*suite).oneAtATime},
		{"adopt", (*suite).adopt},
		{"adopt what was only intended", (*suite).adoptIntended},
		{"adopt nothing that has ended", (*suite).adoptEnded},
		{"adopt nothing that cannot be read", (*suite).adoptGarbage},
		{"adopt nothing of another directory", (*suite).adoptForeign},
		{"find", (*suite).find},
		{"wait after close", (*suite).closed},
		{"stats", (*suite).stats},
		{"open files", (*suite).openFiles},
		{"a failed start leaves nothing", (*suite).failedStart},
		{"a canceled start leaves nothing", (*suite).canceledStart},
		{"agent", (*suite).agent},
		{"drive ids", (*suite).driveIDs},
		{"wire", (*suite).wire},
		{"a wire that nobody reads", (*suite).unreadWire},
		{"pause and resume", (*suite).pause},
		{"adopt what is halted", (*suite).pauseAdopted},
		{"a full host", (*suite).fullHost},
		{"save and restore", (*suite).saveAndRestore},
		{"memory layout", (*suite).memoryLayout},
		{"save what is halted", (*suite).saveHalted},
		{"a fork of a fork", (*suite).generations},
		{"a machine continues after a failed save", (*suite).failedSave},
		{"one save at a time", (*suite).twoSaves},
		{"a failed restore leaves nothing", (*suite).failedRestore},
		{"fingerprints", (*suite).fingerprints},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := pace.Context(context.Background(), 2*time.Minute, "end of the test")
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
	number uint32 // of the last frame that was sent
}

// end undoes what a test has begun, in reverse order.
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
		s.Fatalf("a machine cannot be started: %v", err)
	}
	s.later(in, m.RunDir)
	return in
}

// later ends the machine with the test.
func (s *suite) later(in vmm.Instance, runDir string) {
	state := in.State()
	s.ends = append(s.ends, func() { s.kill(state, runDir) }, func() {
		if err := in.Close(); err != nil {
			s.Errorf("an instance cannot be closed: %v", err)
		}
	})
}

// kill ends a machine, if it is still there, as another daemon would.
func (s *suite) kill(state vmm.State, runDir string) {
	s.Helper()
	in, err := s.h.Driver(s).Adopt(s.ctx, state, runDir)
	if fault.KindOf(err) == fault.NotFound {
		return
	} else if err != nil {
		s.Fatalf("a machine that runs cannot be adopted: %v", err)
	}
	if err := in.Signal(syscall.SIGKILL); err != nil {
		s.Errorf("a machine cannot be killed: %v", err)
	}
	s.ended(in, "")
	s.close(in)
}

func (s *suite) close(in vmm.Instance) {
	s.Helper()
	if err := in.Close(); err != nil {
		s.Fatalf("an instance cannot be closed: %v", err)
	}
}

// adopted adopts a machine with a new driver.
func (s *suite) adopted(state vmm.State, runDir string) vmm.Instance {
	s.Helper()
	in, err := s.h.Driver(s).Adopt(s.ctx, state, runDir)
	if err != nil {
		s.Fatalf("a machine that runs cannot be adopted: %v", err)
	}
	s.ends = append(s.ends, func() { _ = in.Close() })
	return in
}

// ended waits for a machine's end and checks its reason, unless that is "".
func (s *suite) ended(in vmm.Instance, want vmm.ExitReason) {
	s.Helper()
	exit, err := in.Wait(s.ctx)
	if err != nil {
		s.Fatalf("the machine did not end: %v", err)
	}
	if want != "" && exit.Reason != want {
		s.Errorf("the reason of the machine's end is %q (%s), not %q", exit.Reason, exit.Detail, want)
	}
}

// poweredOff waits until a guest has powered its machine off.
func (s *suite) poweredOff(in vmm.Instance) {
	s.Helper()
	s.ended(in, s.byGuest(vmm.ExitPowerOff))
}

// byGuest is the reason that a driver reports when a guest ends its machine: want, or if the driver
// cannot tell a reboot from a power-off, ExitShutdown.
func (s *suite) byGuest(want vmm.ExitReason) vmm.ExitReason {
	s.Helper()
	if s.described().Features.Has(vmm.FeatureTellsReboot) {
		return want
	}
	return vmm.ExitShutdown
}

// press presses the power button.
func (s *suite) press(in vmm.Instance) {
	s.Helper()
	if err := in.PowerOff(s.ctx); err != nil {
		s.Fatalf("the power button cannot be pressed: %v", err)
	}
}

// gone checks that there is no machine for a state.
func (s *suite) gone(state vmm.State, runDir string) {
	s.Helper()
	in, err := s.h.Driver(s).Adopt(s.ctx, state, runDir)
	if fault.KindOf(err) != fault.NotFound {
		s.Errorf("adopting a machine that has ended does not report that it is not found: %v", err)
	}
	if err == nil {
		_ = in.Close()
	}
}

// entries lists a directory. If it does not exist, the list is nil.
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
