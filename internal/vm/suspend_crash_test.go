package vm

import (
	"context"
	"errors"
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
			"store pausing": model.Paused, "resume": running, "thaw": running, "store running": running,
		}},
		{"stop", model.Paused, func(ctx context.Context, d *daemon) { d.Stop(ctx, "a", nil, nil) }, map[string]model.State{
			"resume": model.Paused, "thaw": model.Paused, "store stopping": running,
		}},
		{"suspend", model.Running, func(ctx context.Context, d *daemon) { d.Suspend(ctx, "a", nil) }, map[string]model.State{
			"store pausing": running, "freeze": running, "froze": running, "save": running, "still": running,
			"shape": running, "store suspended": running,
			"signal": suspended, "undo two": suspended, "undo one": suspended,
		}},
		{"resume", model.Suspended, func(ctx context.Context, d *daemon) { d.Resume(ctx, "a", nil) }, map[string]model.State{
			"store starting": suspended, "do preflight": suspended, "shape": suspended,
			"do prepare/one": suspended, "restore": suspended, "do vmm": suspended,
			"do agent": running, "thaw": running, "do post-start/two": running, "store running": running,
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

// TestSuspensionThatCannotBeRecorded loses power when all of the memory is saved. The next daemon
// cannot record that, as on a full disk. The memory is kept until it can.
func TestSuspensionThatCannotBeRecorded(t *testing.T) {
	t.Parallel()
	for name, then := range map[string]func(*testing.T, *daemon) *daemon{
		"in time":     func(t *testing.T, d *daemon) *daemon { d.retryCleanups(t.Context()); return d },
		"resume":      func(_ *testing.T, d *daemon) *daemon { return d },
		"next daemon": func(_ *testing.T, d *daemon) *daemon { d.die(); return d.daemon() },
	} {
		for _, record := range []model.State{model.Running, model.Pausing, model.Stopping, model.Stopped, model.Broken} {
			t.Run(name+"/"+string(record), func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				stored, err := d.store.VMs(t.Context())
				damage(t, err)
				d.suspend(t, v)
				d.die()
				older := stored[0]
				if older.State = record; record == model.Stopped {
					older.Runtime = nil
				}
				h.put(t, older)
				h.failing("store suspended", errBoom)
				d = h.daemon()
				for range 2 {
					d.wantState(t, "a", model.Pausing)
					d.retryCleanups(t.Context())
					if err := second(d.Start(t.Context(), "a", model.Start{}, nil)); !errors.Is(err, errBoom) {
						t.Errorf("the start of a VM whose memory is not recorded returned %v", err)
					}
				}
				h.failing("store suspended", nil)
				d = then(t, d)
				if name != "resume" {
					d.wantState(t, "a", model.Suspended)
				}
				d.resume(t, v)
				d.wantContinues(t, v)
				h.wantMachines(t, 1)
			})
		}
	}
}

// TestKilledAfterTheGuestWrote kills the daemon after a resumed guest has changed its disk, so the
// saved memory is outdated. The machine continues if it and its guest are whole.
func TestKilledAfterTheGuestWrote(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		afterwards func(*daemon, model.VM)
		want       model.State
	}{
		"whole": {func(*daemon, model.VM) {}, model.Running},
		"ended": {func(d *daemon, v model.VM) { d.host.end(v, vmm.ExitCrashed) }, model.Failed},
		"spoiled": {func(d *daemon, v model.VM) {
			d.inGuest(v.ID, func(g *guest) { g.Assumed = false })
		}, model.Failed},
		"not thawed": {func(d *daemon, v model.VM) {
			d.inGuest(v.ID, func(g *guest) { g.Frozen = true })
		}, model.Running},
		"not recorded": {func(d *daemon, v model.VM) { d.failing("store running", errBoom) }, model.Broken},
		"not found":    {func(d *daemon, v model.VM) { d.failing("adopt", errBoom) }, model.Broken},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			was, _ := d.Get("a")
			d.suspend(t, v)
			dead, over := d, make(chan struct{})
			calls := h.called("do post-start/two")
			release := h.hanging("do post-start/two")
			go func() { defer close(over); dead.Resume(t.Context(), "a", nil) }()
			waitFor(t, func() bool { return h.called("do post-start/two") > calls })
			h.work(v, "more")
			c.afterwards(d, v)
			d = d.killed(func() { release(); <-over })
			d.wantState(t, "a", c.want)
			if c.want == model.Broken { // the next daemon can find and record it
				h.failing("adopt", nil)
				h.failing("store running", nil)
				d.die()
				d = h.daemon()
			}
			got, _ := d.Get("a")
			if c.want == model.Failed {
				wantLastError(t, got, "")
				wantNoRuntime(t, got)
				h.wantMachines(t, 0)
				d.wantNothingSaved(t)
				d.start(t, "a")
				h.wantBooted(t, v, "more")
				return
			}
			wantNoLastError(t, got)
			if got.Boot == nil {
				t.Fatalf("the record of the VM, which is %s, shows no start", got.State)
			}
			equal(t, "the time of the VM's start", *got.Started, *was.Started)
			equal(t, "the origin of the VM's machine", got.Boot.Origin.Kind, model.FromSuspended)
			d.wantRunning(t, v)
			h.wantWork(t, v, "more")
			d.wantNothingSaved(t)
			d.suspend(t, v)
			d.resume(t, v)
			h.wantWork(t, v, "more")
			h.end(v, vmm.ExitCrashed) // which the daemon sees
			waitFor(t, func() bool { return d.state(t, "a") == model.Stopped })
		})
	}
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
