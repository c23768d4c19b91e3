package vm

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/pace"
	"banger/internal/step"
)

// TestStopEndsAGuestThatRefuses stops a VM whose guest neither powers off nor reacts to the power
// button. The VM comes to rest, or is started again, and the error says what may be lost.
func TestStopEndsAGuestThatRefuses(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	d.Start(t.Context(), "a", model.Start{}, nil)
	h.failing("power-off", errBoom)
	short := 10 * time.Millisecond
	v, err := d.Stop(t.Context(), "a", &short, nil)
	wantLoses(t, "the stop", model.Stopped)(v, err)
	h.wantMachines(t, 0)
	h.wantCalls(t, "power button", 1)
	wantUnsaved(t, v, "no power-off within ")
	wantEnds(t, "a second stop", model.Stopped)(d.Stop(t.Context(), "a", &short, nil))
	d.start(t, "a")
	wantLoses(t, "the restart", model.Running)(d.Restart(t.Context(), "a", &short, nil))
	h.wantMachines(t, 1)
	if v, _ := d.Get("a"); v.LastError != nil {
		t.Errorf("after the next start the last error is %+v", v.LastError)
	}
}

// TestStopOfAnUnreachableVM stops and restarts a VM that nobody can reach. Both say so at once and
// end nothing. A stop that asks nobody ends it.
func TestStopOfAnUnreachableVM(t *testing.T) {
	for _, state := range []model.State{model.Running, model.Paused} {
		h := newHost(t)
		d := h.daemon()
		v := d.worker(t, model.Create{Name: "a"})
		d.bringTo(t, v, state)
		h.failing("reach", errBoom)
		hour := time.Hour
		wantFails(t, "the stop", errBoom, state)(d.Stop(t.Context(), "a", &hour, nil))
		wantFails(t, "the restart", errBoom, state)(d.Restart(t.Context(), "a", &hour, nil))
		h.wantMachines(t, 1)
		wantEnds(t, "a stop without waiting", model.Stopped)(d.Stop(t.Context(), "a", new(time.Duration), nil))
	}
}

// TestStopLosesWhatNobodyMisses stops guests that do not power off: one without waiting for it, and
// one whose VM is deleted then.
func TestStopLosesWhatNobodyMisses(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	h.failing("power-off", errBoom)
	for remove, timeout := range map[model.RemovePolicy]time.Duration{model.RemoveNever: 0, model.RemoveOnStop: 10 * time.Millisecond} {
		d.create(t, model.Create{Name: "a", Remove: remove})
		d.start(t, "a")
		wantEnds(t, "the stop", model.Stopped)(d.Stop(t.Context(), "a", &timeout, nil))
		_ = d.Delete(t.Context(), "a", false, nil)
	}
	h.wantMachines(t, 0)
}

// wantLoses checks an operation whose end of the guest may have lost data, and which leaves the VM
// in a state.
func wantLoses(t *testing.T, what string, state model.State) func(model.VM, error) {
	t.Helper()
	return func(v model.VM, err error) {
		t.Helper()
		wantKind(t, what, err, fault.Unavailable)
		if err != nil && !strings.Contains(err.Error(), "VM a was ended: the guest may not have saved its data") {
			t.Errorf("%s: %v", what, err)
		}
		equal(t, "the VM after "+what, v.State, state)
	}
}

// wantUnsaved checks that a VM's record says that its guest may not have saved its data.
func wantUnsaved(t *testing.T, v model.VM, words ...string) {
	t.Helper()
	if v.LastError == nil || v.LastError.Step != step.PowerOff || !strings.Contains(v.LastError.Hint, "--timeout") {
		t.Fatalf("the last error is %+v", v.LastError)
	}
	for _, word := range append(words, "may not have saved") {
		if !strings.Contains(v.LastError.Msg, word) {
			t.Errorf("the last error is %q, without %q", v.LastError.Msg, word)
		}
	}
}

// TestStopReportsKilledPrograms stops a guest with a program that does not end by itself. The host
// says when its time is over. If the host is gone, the program has longer than any host gives it.
func TestStopReportsKilledPrograms(t *testing.T) {
	for name, c := range map[string]struct {
		timeout *time.Duration
		grace   time.Duration
	}{
		"the configured time": {nil, 2 * pace.Most * 20 * time.Millisecond},
		"a time of one's own": {ptr(60 * time.Millisecond), 2 * 30 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.stubborn, h.grace = "postgres", 40*time.Millisecond
			d := h.daemon()
			d.create(t, model.Create{Name: "a"})
			d.start(t, "a")
			var failed []string
			v, err := d.Stop(t.Context(), "a", c.timeout, func(e step.Event) {
				if e.Step == step.PowerOff && e.Phase == step.Failed {
					failed = append(failed, e.Error)
				}
			})
			wantEnds(t, "the stop", model.Stopped)(v, err)
			wantUnsaved(t, v, "the guest reports: postgres")
			if len(failed) != 1 || failed[0] != v.LastError.Msg {
				t.Errorf("the stop reported %q", failed)
			}
			if len(h.graces) != 1 || h.graces[0] != c.grace {
				t.Errorf("its programs got %v, want %v", h.graces, c.grace)
			}
		})
	}
}

// TestHungAgentLeavesTimeForThePowerButton has an agent that accepts the request to power off and
// does nothing.
func TestHungAgentLeavesTimeForThePowerButton(t *testing.T) {
	h := newHost(t)
	h.answersButton = true
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	d.start(t, "a")
	defer h.hanging("power-off")()
	grace := 200 * time.Millisecond
	var reported []step.Event
	if _, err := d.Stop(t.Context(), "a", &grace, func(e step.Event) { reported = append(reported, e) }); err != nil {
		t.Fatal(err)
	}
	wantPoweredOff(t, reported)
}

func TestKill(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	_, err := d.Kill(t.Context(), "a", syscall.SIGKILL)
	wantKind(t, "killing a stopped VM", err, fault.WrongState)
	wantHint(t, "killing a stopped VM", err, "nothing to kill")
	d.Start(t.Context(), "a", model.Start{}, nil)
	wantEnds(t, "a harmless signal", model.Running)(d.Kill(t.Context(), "a", syscall.Signal(0)))
	wantEnds(t, "the kill", model.Stopped)(d.Kill(t.Context(), "a", syscall.SIGKILL))
}

func TestKillEndsAHangingStart(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	defer h.hanging("do agent")()
	errs := make(chan error)
	go func() { _, err := d.Start(t.Context(), "a", model.Start{}, nil); errs <- err }()
	waitFor(t, func() bool { return h.called("do agent") > 0 })
	if _, err := d.Kill(t.Context(), "a", syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	wantKilled(t, "the start", <-errs)
	d.wantState(t, "a", model.Stopped)
}
