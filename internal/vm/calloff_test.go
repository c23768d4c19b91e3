package vm

import (
	"context"
	"fmt"
	"maps"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
)

// silent are operations that wait for a guest, and the hook in which the guest does not answer.
var silent = map[string]struct {
	hook   string
	before model.State
	do     func(context.Context, *daemon) error
}{
	"start":    {"do agent", model.Stopped, func(ctx context.Context, d *daemon) error { return second(d.Start(ctx, "a", model.Start{}, nil)) }},
	"assume":   {"do assume", model.Stopped, func(ctx context.Context, d *daemon) error { return second(d.Start(ctx, "a", model.Start{}, nil)) }},
	"prepare":  {"do prepare/one", model.Stopped, func(ctx context.Context, d *daemon) error { return second(d.Start(ctx, "a", model.Start{}, nil)) }},
	"hooks":    {"do post-start/one", model.Stopped, func(ctx context.Context, d *daemon) error { return second(d.Start(ctx, "a", model.Start{}, nil)) }},
	"fork":     {"freeze", model.Running, func(ctx context.Context, d *daemon) error { return second(d.Fork(ctx, "a", model.Fork{}, nil)) }},
	"thaw":     {"thaw", model.Running, func(ctx context.Context, d *daemon) error { return second(d.Fork(ctx, "a", model.Fork{}, nil)) }},
	"snapshot": {"sync", model.Running, func(ctx context.Context, d *daemon) error { return second(d.CreateSnapshot(ctx, "a", "s", nil)) }},
	"suspend":  {"freeze", model.Running, func(ctx context.Context, d *daemon) error { return second(d.Suspend(ctx, "a", nil)) }},
	"pause":    {"freeze", model.Running, func(ctx context.Context, d *daemon) error { return second(d.Pause(ctx, "a", nil)) }},
	"resume":   {"thaw", model.Paused, func(ctx context.Context, d *daemon) error { return second(d.Resume(ctx, "a", nil)) }},
}

// make makes the VM "a" in a state.
func (d *daemon) make(t *testing.T, state model.State) model.VM {
	t.Helper()
	if state == model.Stopped {
		return d.create(t, model.Create{Name: "a"})
	}
	v := d.worker(t, model.Create{Name: "a"})
	if state == model.Paused {
		d.pause(t, v)
	}
	return v
}

// waits begins an operation whose guest does not answer, and returns when it waits.
func (d *daemon) waits(t *testing.T, hook string, do func(context.Context, *daemon) error) (over <-chan error) {
	t.Helper()
	calls, errs := d.called(hook), make(chan error, 1)
	go func() { errs <- do(t.Context(), d) }()
	waitFor(t, func() bool { return d.called(hook) > calls })
	return errs
}

// TestSilentGuestIsEnded kills or deletes a VM whose guest does not answer. What waits for the
// guest ends at once, and says why. What waits for that ends, too.
func TestSilentGuestIsEnded(t *testing.T) {
	t.Parallel()
	for name, c := range silent {
		for end, says := range map[string]string{"kill": "killed meanwhile", "delete": "is being deleted"} {
			t.Run(name+"/"+end, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				d.make(t, c.before)
				defer h.hanging(c.hook)()
				first := d.waits(t, c.hook, c.do)
				behind := make(chan error, 1)
				go func() { behind <- second(d.CreateSnapshot(t.Context(), "a", "s", nil)) }()
				e, _ := d.find("a")
				waitFor(t, func() bool { return e.Lock.Waiting() == 1 })
				if end == "kill" {
					wantEnds(t, "the kill", model.Stopped)(d.Kill(t.Context(), "a", syscall.SIGKILL))
				} else if err := d.Delete(t.Context(), "a", true, nil); err != nil {
					t.Errorf("the deletion failed: %v", err)
				}
				for what, errs := range map[string]<-chan error{"the operation": first, "the one behind it": behind} {
					err := <-errs
					wantKind(t, what, err, fault.Canceled)
					if err != nil && !strings.Contains(err.Error(), says) {
						t.Errorf("%s does not say why it ends: %v", what, err)
					}
				}
				h.wantMachines(t, 0)
				if end == "delete" {
					d.wantVMs(t, 0)
				}
			})
		}
	}
}

// TestDaemonEndsBesideASilentGuest ends a daemon while an operation waits for a guest that does not
// answer. The operation ends, and the next daemon finds the VM as it was.
func TestDaemonEndsBesideASilentGuest(t *testing.T) {
	t.Parallel()
	cases := maps.Clone(silent)
	delete(cases, "prepare") // it waits for no guest
	stop := cases["resume"]  // the guest was not asked to power off
	stop.do = func(ctx context.Context, d *daemon) error { return second(d.Stop(ctx, "a", ptr(time.Hour), nil)) }
	cases["stop"] = stop
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.make(t, c.before)
			release := h.hanging(c.hook)
			first := d.waits(t, c.hook, c.do)
			d.endWaits(errEnding)
			wantKind(t, "the operation", <-first, fault.Unavailable)
			wantKind(t, "another operation", c.do(t.Context(), d), fault.Unavailable)
			d.die()
			release()
			d = h.daemon()
			d.wantState(t, "a", c.before)
			switch c.before {
			case model.Running:
				claim(t, !h.memoryOf(v).Frozen, "the guest is still frozen")
			case model.Paused:
				d.resume(t, v)
				d.wantContinues(t, v)
			}
		})
	}
}

// TestStopIsTakenBack ends a daemon while a guest powers off. Its machine is not ended before the
// guest has saved its data.
func TestStopIsTakenBack(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a"})
	d.start(t, "a")
	release := h.hanging("power-off")
	errs := d.waits(t, "power-off", func(ctx context.Context, d *daemon) error {
		return second(d.Stop(ctx, "a", ptr(time.Hour), nil))
	})
	d.endWaits(errEnding)
	wantKind(t, "the stop", <-errs, fault.Unavailable)
	d.die()
	release()
	h.wantMachines(t, 1)
	d = h.daemon()
	d.wantRunning(t, v)
}

// TestResumeIsLeft ends a daemon when a VM that is resumed has got its guest. The next daemon
// completes the resume: the memory is of no use once the guest has written to a disk.
func TestResumeIsLeft(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	release := h.hanging("do post-start/one")
	errs := d.waits(t, "do post-start/one", func(ctx context.Context, d *daemon) error { return second(d.Resume(ctx, "a", nil)) })
	h.work(v, "written since")
	d.endWaits(errEnding)
	wantKind(t, "the resume", <-errs, fault.Unavailable)
	d.die()
	release()
	d = h.daemon()
	d.wantRunning(t, v)
	if got := h.workOf(v); got != "written since" {
		t.Errorf("the guest continues with %q", got)
	}
}

// TestSilentGuestsKeepNobodyFromRecovery starts a daemon beside more guests that do not answer than
// machines are looked for at a time. The others are recovered, and these can be ended.
func TestSilentGuestsKeepNobodyFromRecovery(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	var held []model.VM
	for i := range sideBySide + 2 {
		v := d.started(t, model.Create{Name: fmt.Sprintf("held-%d", i)})
		if err := os.WriteFile(h.layout.VM(v.ID).Held(), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		held = append(held, v)
	}
	other := d.started(t, model.Create{Name: "other"})
	d.die()
	defer h.hanging("thaw")()
	h.recoverTimeout = 10 * time.Millisecond
	d = h.daemon()
	waitFor(t, func() bool { return d.state(t, other.ID) == model.Running })
	waitFor(t, func() bool { return h.called("thaw") == len(held) })
	equal(t, "the state of a VM whose guest does not answer", d.state(t, held[0].ID), model.Recovering)
	wantEnds(t, "the kill", model.Stopped)(d.Kill(t.Context(), held[0].ID, syscall.SIGKILL))
	if err := d.Delete(t.Context(), held[1].ID, true, nil); err != nil {
		t.Errorf("deleting a VM that is being recovered: %v", err)
	}
	d.wantVMs(t, len(held))
	d.die() // at once
	h.wantMachines(t, len(held)-1)
	_, err := d.Pause(t.Context(), held[2].ID, nil)
	wantKind(t, "a pause after the daemon's end", err, fault.Unavailable)
}

// TestDaemonEndsAfterWorkWithoutAGuest ends a daemon while operations work that wait for no guest,
// or only for one that answers. They succeed.
func TestDaemonEndsAfterWorkWithoutAGuest(t *testing.T) {
	t.Parallel()
	suspend := func(ctx context.Context, d *daemon) error { return second(d.Suspend(ctx, "a", nil)) }
	snapshot := func(ctx context.Context, d *daemon) error {
		return second(d.CreateSnapshot(ctx, "a", "s", d.reporter()))
	}
	for name, c := range map[string]struct {
		hook          string
		before, after model.State
		do            func(context.Context, *daemon) error
	}{
		"suspend":                  {"save", model.Running, model.Suspended, suspend},
		"snapshot":                 {"save", model.Running, model.Running, snapshot},
		"snapshot of a stopped VM": {"report started capture a", model.Stopped, model.Stopped, snapshot},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			if c.before == model.Stopped {
				d.bringTo(t, v, c.before)
			}
			release := h.hanging(c.hook)
			errs := d.waits(t, c.hook, c.do)
			d.endWaits(errEnding)
			release()
			if err := <-errs; err != nil {
				t.Errorf("the operation failed: %v", err)
			}
			d.wantState(t, "a", c.after)
			d.die()
			d = h.daemon()
			if c.after == model.Suspended {
				d.resume(t, v)
			}
			if c.after != model.Stopped {
				d.wantContinues(t, v)
			}
		})
	}
}
