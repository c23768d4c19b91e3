package vm

import (
	"context"
	"slices"
	"testing"

	"banger/internal/model"
	"banger/internal/vmm"
)

// TestKilledWhilePausing kills the daemon at each moment of a pause, of a suspension, and of their
// ends.
func TestKilledWhilePausing(t *testing.T) {
	t.Parallel()
	running, suspended := model.Running, model.Suspended
	for _, c := range []struct {
		operation string
		from      model.State
		do        func(context.Context, *daemon)
		hooks     map[string]model.State // at which the daemon is killed, with the recovered state
	}{
		{"pause", model.Running, func(ctx context.Context, d *daemon) { d.Pause(ctx, "a", nil) }, map[string]model.State{
			"store pausing": running, "freeze": running, "froze": running, "halt": running, "store paused": running,
		}},
		{"resume", model.Paused, func(ctx context.Context, d *daemon) { d.Resume(ctx, "a", nil) }, map[string]model.State{
			"resume": model.Paused, "thaw": model.Paused, "store running": model.Paused,
		}},
		{"suspend", model.Running, func(ctx context.Context, d *daemon) { d.Suspend(ctx, "a", nil) }, map[string]model.State{
			"store pausing": running, "freeze": running, "froze": running, "save": running, "still": running,
			"shape": running, "store suspended": running,
			"signal": suspended, "undo two": suspended, "undo one": suspended,
		}},
		{"resume", model.Suspended, func(ctx context.Context, d *daemon) { d.Resume(ctx, "a", nil) }, map[string]model.State{
			"store starting": suspended, "do preflight": suspended, "shape": suspended,
			"do prepare/one": suspended, "restore": suspended, "do vmm": suspended,
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
					d.bringTo(t, v, c.from)
				}
				if hook == "store starting" || hook == "store running" || hook == "store pausing" {
					before = h.files() // nothing has happened yet
				}
				dead := d
				d = d.killedIn(hook, func(ctx context.Context) { c.do(ctx, dead) })
				got, err := d.Get("a")
				if err != nil || got.State != want {
					t.Fatalf("recovery made the VM %s (%+v), not %s: %v", got.State, got.LastError, want, err)
				}
				switch want {
				case model.Running:
					d.wantContinues(t, v)
					h.wantFiles(t, before)
				case model.Paused:
					d.resume(t, v)
					d.wantContinues(t, v)
				case model.Suspended:
					h.wantMachines(t, 0)
					wantNoRuntime(t, got)
					left := h.files()
					for _, path := range []string{h.layout.VM(v.ID).Run, h.held(v, "one")} {
						claim(t, !slices.Contains(left, path), "the suspended VM still has %s", path)
					}
					d.resume(t, v)
					d.wantContinues(t, v)
				}
				d.suspend(t, v) // nothing prevents it
				d.resume(t, v)
				d.wantContinues(t, v)
			})
		}
	}
}

// TestPowerLossWhileSuspending ends daemon and machine at each moment of a suspension. As soon as
// all of the memory is saved, it is kept.
func TestPowerLossWhileSuspending(t *testing.T) {
	t.Parallel()
	for hook, want := range map[string]model.State{
		"store pausing": model.Stopped, "freeze": model.Stopped, "save": model.Stopped, "still": model.Stopped, "shape": model.Stopped,
		"store suspended": model.Suspended, "signal": model.Suspended, "undo two": model.Suspended, "undo one": model.Suspended,
	} {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			h.losePower()
			dead := d
			d = d.killedIn(hook, func(ctx context.Context) { dead.Suspend(ctx, "a", nil) })
			got, err := d.Get("a")
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "the VM after the power loss", got.State, want)
			h.wantMachines(t, 0)
			wantNoRuntime(t, got)
			if want == model.Stopped {
				d.wantNothingSaved(t)
				d.start(t, "a")
				return
			}
			d.resume(t, v)
			d.wantContinues(t, v)
		})
	}
}

// TestKilledAfterTheGuestWrote kills the daemon after a resumed guest has changed its disk. Its
// saved memory is outdated.
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
	got, _ := d.Get("a")
	equal(t, "the VM whose memory is outdated", got.State, model.Failed)
	wantLastError(t, got, "")
	wantNoRuntime(t, got)
	h.wantMachines(t, 0)
	d.wantNothingSaved(t)
	d.start(t, "a")
	h.wantBooted(t, v, "work of a")
}

// TestRecoveryPausesAVMThatCannotBeThawed kills the daemon in a suspension, and makes the thaw
// fail afterwards.
func TestRecoveryPausesAVMThatCannotBeThawed(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	h.failing("thaw", errBoom)
	dead := d
	d = d.killedIn("still", func(ctx context.Context) { dead.Suspend(ctx, "a", nil) })
	d.wantPausedUntilThawed(t, v)
}

// TestKilledAfterItsMachineEnded kills the daemon in a pause whose machine has ended.
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
	got, err := d.Get("a")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the VM whose machine ended", got.State, model.Stopped)
	wantLastError(t, got, "")
	wantNoRuntime(t, got)
}
