package vm

import (
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// TestStopEndsAGuestThatRefuses stops a VM whose guest neither powers off nor reacts to the power
// button.
func TestStopEndsAGuestThatRefuses(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	d.Start(t.Context(), "a", model.Start{}, nil)
	h.failing("power-off", errBoom)
	short := 10 * time.Millisecond
	v, err := d.Stop(t.Context(), "a", &short, nil)
	wantEnds(t, "the stop", model.Stopped)(v, err)
	h.wantMachines(t, 0)
	h.wantCalls(t, "power button", 1)
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
