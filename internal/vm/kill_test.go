package vm

import (
	"context"
	"syscall"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
)

// TestKillOfAStoppedVM kills a VM that does not run, while a snapshot of it is made and a start
// waits. Neither is called off.
func TestKillOfAStoppedVM(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	d.bringTo(t, d.started(t, model.Create{Name: "a"}), model.Stopped)
	release := h.hanging("report started capture a")
	first := d.waits(t, "report started capture a", func(ctx context.Context, d *daemon) error {
		return second(d.CreateSnapshot(ctx, "a", "s", h.reporter()))
	})
	behind := make(chan error, 1)
	go func() { behind <- second(d.Start(t.Context(), "a", model.Start{}, nil)) }()
	e, _ := d.find("a")
	waitFor(t, func() bool { return e.Lock.Waiting() == 1 })
	_, err := d.Kill(t.Context(), "a", syscall.SIGKILL)
	wantKind(t, "the kill", err, fault.WrongState)
	release()
	for what, errs := range map[string]<-chan error{"the snapshot": first, "the start": behind} {
		if err := <-errs; err != nil {
			t.Errorf("%s failed: %v", what, err)
		}
	}
	d.wantState(t, "a", model.Running)
}

// TestKillOfAStartThatIsRemoved kills a VM that has no machine yet, and is deleted when it stops.
func TestKillOfAStartThatIsRemoved(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	defer h.hanging("do prepare/one")()
	errs := d.waits(t, "do prepare/one", func(ctx context.Context, d *daemon) error {
		return second(d.Launch(ctx, model.Create{Name: "a", Remove: model.RemoveOnStop}, func(model.VM) {}, nil))
	})
	if _, err := d.Kill(t.Context(), "a", syscall.SIGKILL); err != nil {
		t.Errorf("the kill failed: %v", err)
	}
	wantKind(t, "the launch", <-errs, fault.Canceled)
	d.wantVMs(t, 0)
}

// TestEndedMachineIsSettled ends a machine while an operation on its VM is under way. A kill begins
// and its client goes away. The VM is settled all the same.
func TestEndedMachineIsSettled(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.started(t, model.Create{Name: "a"})
	release := h.hanging("store running")
	renamed := d.waits(t, "store running", func(ctx context.Context, d *daemon) error { return second(d.Rename(ctx, "a", "b")) })
	e, _ := d.find("a")
	h.end(v, vmm.ExitCrashed)
	waitFor(t, func() bool { return e.Lock.Waiting() == 1 })
	ctx, leave := context.WithCancel(t.Context())
	killed := make(chan error, 1)
	go func() { killed <- second(d.Kill(ctx, "a", syscall.SIGKILL)) }()
	waitFor(t, func() bool { return h.called("signal") > 0 })
	leave()
	if err := <-killed; err == nil {
		t.Error("the kill succeeded without its client")
	}
	release()
	if err := <-renamed; err != nil {
		t.Errorf("the rename failed: %v", err)
	}
	waitFor(t, func() bool { return d.state(t, v.ID) == model.Stopped })
	got, _ := d.Get(v.ID)
	wantLastError(t, got, "")
	wantNoRuntime(t, got)
}
