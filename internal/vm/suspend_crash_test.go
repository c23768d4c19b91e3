package vm

import (
	"context"
	"slices"
	"testing"

	"banger/internal/model"
	"banger/internal/vmm"
)

// TestKilledWhilePausing kills the daemon at each moment of a pause, a suspension, and their ends.
func TestKilledWhilePausing(t *testing.T) {
	t.Parallel()
	running, suspended := model.Running, model.Suspended
	for _, c := range []struct {
		operation string
		from      model.State
		do        func(context.Context, *daemon)
		hooks     map[string]model.State // at which the daemon is killed, and what the VM is then
	}{
		{"pause", model.Running, func(ctx context.Context, d *daemon) { d.Pause(ctx, "a", nil) }, map[string]model.State{
			"store pausing": running, "freeze": running, "froze": running, "halt": running, "store paused": running,
		}},
		{"resume", model.Paused, func(ctx context.Context, d *daemon) { d.Resume(ctx, "a", nil) }, map[string]model.State{
			"go on": model.Paused, "thaw": model.Paused, "store running": model.Paused,
		}},
		{"suspend", model.Running, func(ctx context.Context, d *daemon) { d.Suspend(ctx, "a", nil) }, map[string]model.State{
			"store pausing": running, "freeze": running, "froze": running, "save": running, "still": running, "shape": running, "store suspended": running,
			"signal": suspended, "undo two": suspended, "undo one": suspended,
		}},
		{"resume", model.Suspended, func(ctx context.Context, d *daemon) { d.Resume(ctx, "a", nil) }, map[string]model.State{
			"store starting": suspended, "do preflight": suspended, "shape": suspended, "do prepare/one": suspended, "restore": suspended, "do vmm": suspended,
			"do agent": suspended, "thaw": suspended, "do post-start/two": suspended, "store running": suspended,
		}},
	} {
		for hook, want := range c.hooks {
			t.Run(c.operation+" of "+string(c.from)+"/"+hook, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				before := h.files()
				if c.from != model.Running {
					d.bring(t, v, c.from)
				}
				if hook == "store starting" || hook == "store running" || hook == "store pausing" {
					before = h.files() // nothing has happened yet
				}
				dead := d
				d = d.killedIn(hook, func(ctx context.Context) { c.do(ctx, dead) })
				got, err := d.Get("a")
				if err != nil || got.State != want {
					t.Fatalf("recovered as %s (%+v), %v", got.State, got.LastError, err)
				}
				switch want {
				case model.Running:
					d.goesOn(t, v)
					if after := h.files(); !slices.Equal(before, after) {
						t.Errorf("files before %v, after %v", before, after)
					}
				case model.Paused:
					d.resume(t, v)
					d.goesOn(t, v)
				case model.Suspended:
					if h.running() != 0 || got.Runtime != nil {
						t.Errorf("%d machines, %+v", h.running(), got.Runtime)
					}
					if left := h.files(); slices.Contains(left, h.layout.VM(v.ID).Run) || slices.Contains(left, h.held(v, "one")) {
						t.Errorf("left: %v", left)
					}
					d.resume(t, v)
					d.goesOn(t, v)
				}
				d.suspend(t, v) // nothing stands in the way of it
				d.resume(t, v)
				d.goesOn(t, v)
			})
		}
	}
}

// TestKilledAfterTheGuestWrote kills the daemon when a guest that has been resumed has already changed its disk: its memory is history.
func TestKilledAfterTheGuestWrote(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	dead, over := d, make(chan struct{})
	calls := h.called("do post-start/two")
	release := h.hanging("do post-start/two")
	go func() { defer close(over); dead.Resume(t.Context(), "a", nil) }()
	waitFor(t, func() bool { return h.called("do post-start/two") > calls })
	h.work(v, "work of a")
	d = d.killed(func() { release(); <-over })
	if got, _ := d.Get("a"); got.State != model.Failed || got.LastError == nil || got.Runtime != nil || h.running() != 0 {
		t.Errorf("%s, %+v, %d machines", got.State, got.LastError, h.running())
	}
	d.nothingSaved(t)
	d.running(t, "a")
	if g := h.look(v); g.Data != "" || h.onDisk(v) != "work of a" {
		t.Errorf("it has booted with %q in its memory and %q on its disk", g.Data, h.onDisk(v))
	}
}

// TestRecoveryCannotLetItGoOn has a guest that does not answer after the daemon was killed in a suspension.
func TestRecoveryCannotLetItGoOn(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	h.failing("thaw", errBoom)
	dead := d
	d = d.killedIn("still", func(ctx context.Context) { dead.Suspend(ctx, "a", nil) })
	d.cannotGoOn(t, v)
}

// TestKilledAfterItsMachineEnded finds nothing to let go on.
func TestKilledAfterItsMachineEnded(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	dead := d
	release := h.hanging("store paused")
	over := make(chan struct{})
	go func() { defer close(over); dead.Pause(t.Context(), "a", nil) }()
	waitFor(t, func() bool { return h.called("store paused") > 0 })
	h.end(v, vmm.ExitCrashed)
	d = d.killed(func() { release(); <-over })
	if got, err := d.Get("a"); err != nil || got.State != model.Stopped || got.LastError == nil || got.Runtime != nil {
		t.Errorf("%+v, %v", got, err)
	}
}
