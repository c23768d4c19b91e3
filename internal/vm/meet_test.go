package vm

import (
	"context"
	"strings"
	"syscall"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestKillMeetsAStart kills a VM in each part of its start that has a machine. The start says so,
// and the VM is stopped, like a VM that was killed while it ran.
func TestKillMeetsAStart(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"do agent", "do assume", "do post-start/one", "do post-start/two"} {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.create(t, model.Create{Name: "a"})
			before := h.files()
			release := h.hanging(hook)
			errs := make(chan error, 1)
			go func() { errs <- second(d.Start(t.Context(), "a", model.Start{}, nil)) }()
			waitFor(t, func() bool { return h.called(hook) > 0 })
			h.failing(hook, errBoom) // as a connection whose other end is gone
			got, err := d.Kill(t.Context(), "a", syscall.SIGKILL)
			wantEnds(t, "the kill", model.Stopped)(got, err)
			release()
			h.failing(hook, nil)
			wantKilled(t, "the start", <-errs)
			got, _ = d.Get("a")
			wantNoLastError(t, got)
			wantNoRuntime(t, got)
			h.wantFiles(t, before)
			h.wantMachines(t, 0)
			d.start(t, v.ID)
		})
	}
}

// TestKillMeetsAnOperation kills a VM while it is being saved or paused. The operation says so.
func TestKillMeetsAnOperation(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		hook string
		do   func(context.Context, *daemon) error
	}{
		"suspend":  {"save", func(ctx context.Context, d *daemon) error { return second(d.Suspend(ctx, "a", nil)) }},
		"pause":    {"freeze", func(ctx context.Context, d *daemon) error { return second(d.Pause(ctx, "a", nil)) }},
		"fork":     {"save", func(ctx context.Context, d *daemon) error { return second(d.Fork(ctx, "a", model.Fork{}, nil)) }},
		"snapshot": {"save", func(ctx context.Context, d *daemon) error { return second(d.CreateSnapshot(ctx, "a", "s", nil)) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			d.worker(t, model.Create{Name: "a"})
			release := h.hanging(c.hook)
			errs := make(chan error, 1)
			go func() { errs <- c.do(t.Context(), d) }()
			waitFor(t, func() bool { return h.called(c.hook) > 0 })
			killed := make(chan error, 1)
			go func() { killed <- second(d.Kill(t.Context(), "a", syscall.SIGKILL)) }()
			waitFor(t, func() bool { return h.running() == 0 })
			release()
			wantKilled(t, "the "+name, <-errs)
			if err := <-killed; err != nil {
				t.Error(err)
			}
			d.wantState(t, "a", model.Stopped)
			d.wantNothingSaved(t)
			d.start(t, "a")
		})
	}
}

// wantKilled checks the error of an operation that met a kill.
func wantKilled(t *testing.T, what string, err error) {
	t.Helper()
	wantKind(t, what, err, fault.Canceled)
	if err != nil && !strings.Contains(err.Error(), "VM a was killed meanwhile") {
		t.Errorf("%s does not say that the VM was killed: %v", what, err)
	}
}
