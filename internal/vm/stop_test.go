package vm

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

func TestStubbornGuestIsEnded(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	d.Start(t.Context(), "a", model.Start{}, nil)
	h.failing("power-off", errBoom)
	short := 10 * time.Millisecond
	v, err := d.Stop(t.Context(), "a", &short, nil)
	if err != nil || v.State != model.Stopped || h.running() != 0 || h.called("power button") != 1 {
		t.Errorf("got %+v, %v; the power button was pressed %d times", v, err, h.called("power button"))
	}
}

// TestHungAgentLeavesTimeForThePowerButton has an agent that takes the request and does nothing.
func TestHungAgentLeavesTimeForThePowerButton(t *testing.T) {
	h := newHost(t)
	h.answersButton = true
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	d.running(t, "a")
	defer h.hanging("power-off")()
	grace := 200 * time.Millisecond
	var said []step.Event
	if _, err := d.Stop(t.Context(), "a", &grace, func(e step.Event) { said = append(said, e) }); err != nil {
		t.Fatal(err)
	}
	if last := said[len(said)-1]; last.Step != "power-off" || last.Phase != step.Done {
		t.Errorf("the guest was not asked by its power button: %+v", last)
	}
}

func TestKill(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	if _, err := d.Kill(t.Context(), "a", syscall.SIGKILL); fault.KindOf(err) != fault.WrongState || !strings.Contains(fault.HintOf(err), "nothing to kill") {
		t.Errorf("killing a stopped VM: %v, %q", err, fault.HintOf(err))
	}
	d.Start(t.Context(), "a", model.Start{}, nil)
	if v, err := d.Kill(t.Context(), "a", syscall.Signal(0)); err != nil || v.State != model.Running {
		t.Errorf("a harmless signal: %s, %v", v.State, err)
	}
	if v, err := d.Kill(t.Context(), "a", syscall.SIGKILL); err != nil || v.State != model.Stopped {
		t.Errorf("killed: %s, %v", v.State, err)
	}
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
	if err := <-errs; err == nil || !strings.Contains(err.Error(), "the machine ended") {
		t.Errorf("the start ended with %v", err)
	}
	if d.state(t, "a") != model.Failed {
		t.Errorf("it is %s", d.state(t, "a"))
	}
}
