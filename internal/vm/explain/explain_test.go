package explain_test

import (
	"errors"
	"strings"
	"testing"

	"banger/internal/api/session"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/step"
	"banger/internal/vm/explain"
	"banger/internal/vmm"
)

// TestFailedIsNamed checks that the state error is worded as part of a sentence.
func TestFailedIsNamed(t *testing.T) {
	v := model.VM{Spec: model.Spec{Name: "a"}, State: model.Failed}
	for _, err := range []error{explain.NotRunning(v), explain.NothingToKill(v), session.Ended(model.VM{ID: "1", State: model.Failed}, "")} {
		if !strings.HasSuffix(err.Error(), "it is in state error") {
			t.Error(err)
		}
	}
}

// TestRefusals checks for each state which operations are refused. A letter stands for an operation
// that is allowed: s(et), r(eplace), R(eplace by force), d(elete without force).
func TestRefusals(t *testing.T) {
	for state, allowed := range map[model.State]string{
		model.Creating: "d", model.Stopped: "srRd", model.Failed: "srRd", model.Starting: "d", model.Running: "sR",
		model.Pausing: "d", model.Paused: "R", model.Suspended: "R", model.Stopping: "d", model.Deleting: "d", model.Broken: "Rd",
	} {
		v := model.VM{Spec: model.Spec{Name: "a"}, State: state}
		got := ""
		for letter, err := range map[string]error{
			"s": explain.MaySet(v), "r": explain.MayReplace(v, false), "R": explain.MayReplace(v, true),
		} {
			if err != nil && fault.KindOf(err) != fault.WrongState {
				t.Errorf("%s: the refusal %v is of kind %q", state, err, fault.KindOf(err))
			}
			if err == nil {
				got += letter
			}
		}
		if !explain.HasMemory(v) {
			got += "d"
		}
		for _, letter := range "srRd" {
			if want := strings.ContainsRune(allowed, letter); strings.ContainsRune(got, letter) != want {
				t.Errorf("%s: operation %c is allowed: %v, want %v", state, letter, !want, want)
			}
		}
		for what, err := range map[string]error{
			"an operation on a VM that does not run": explain.NotRunning(v), "a signal": explain.NothingToKill(v), "a deletion": explain.StillRuns(v),
		} {
			if !strings.Contains(err.Error(), string(state)) {
				t.Errorf("the refusal of %s does not name the state %s: %v", what, state, err)
			}
		}
	}
}

// TestFailureNamesItsLog checks that a recorded failure names the log that explains it.
func TestFailureNamesItsLog(t *testing.T) {
	layout := paths.Layout{State: "/s", Runtime: "/r"}
	v := model.VM{ID: "0123456789abcdef"}
	for at, want := range map[string]string{
		"vmm": layout.VM(v.ID).VMMLog(), "agent": layout.VM(v.ID).ConsoleLog(), "assume": layout.VM(v.ID).ConsoleLog(), "origin": layout.DaemonLog(),
	} {
		f := explain.Failure(layout, v, &step.Error{Step: at, Err: errors.New("cause"), Undo: errors.New("rest")})
		if f.Log != want {
			t.Errorf("a failure in step %s names the log %q, want %q", at, f.Log, want)
		}
		if f.Msg != "cause (left over: rest)" {
			t.Errorf("a failure in step %s says %q", at, f.Msg)
		}
	}
	if f := explain.Failure(layout, v, errors.New("cause")); f.Log != "" || f.Step != "" {
		t.Errorf("a failure outside of steps names step %q and log %q", f.Step, f.Log)
	}
}

// TestExit checks that only an end that nobody asked for is recorded as a failure.
func TestExit(t *testing.T) {
	layout := paths.Layout{State: "/s", Runtime: "/r"}
	v := model.VM{ID: "0123456789abcdef"}
	for _, wanted := range []vmm.ExitReason{vmm.ExitPowerOff, vmm.ExitReboot, vmm.ExitShutdown, vmm.ExitKilled} {
		if f := explain.Exit(layout, v, vmm.Exit{Reason: wanted}); f != nil {
			t.Errorf("an end by %s is recorded as %q", wanted, f.Msg)
		}
	}
	if f := explain.Exit(layout, v, vmm.Exit{Reason: vmm.ExitCrashed}); f == nil || f.Log != layout.VM(v.ID).VMMLog() {
		t.Errorf("a crash of the VMM is recorded as %+v", f)
	}
	if f := explain.Exit(layout, v, vmm.Exit{Reason: vmm.ExitPanic}); f == nil || f.Log != layout.VM(v.ID).ConsoleLog() {
		t.Errorf("a panic of the guest is recorded as %+v", f)
	}
}
