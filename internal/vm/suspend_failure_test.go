package vm

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"

	"banger/internal/model"
	"banger/internal/vmm"
)

// TestPauseFails fails each part of a pause: the VM goes on, and can be paused when the cause is gone.
func TestPauseFails(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"store pausing", "freeze", "froze", "halt", "store paused"} {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			h.failing(hook, errBoom)
			wantFails(t, "the pause", errBoom, model.Running)(d.Pause(t.Context(), "a", nil))
			h.failing(hook, nil)
			d.goesOn(t, v)
			d.pause(t, v)
			d.resume(t, v)
			d.goesOn(t, v)
		})
	}
}

// TestResumeFails fails each part of letting a paused VM go on: it stays paused, and can be resumed when the cause is gone.
func TestResumeFails(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"go on", "thaw", "store running"} {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.pause(t, v)
			h.failing(hook, errBoom)
			wantFails(t, "the resume", errBoom, model.Paused)(d.Resume(t.Context(), "a", nil))
			h.failing(hook, nil)
			d.resume(t, v)
			d.goesOn(t, v)
		})
	}
}

// suspendHooks are the moments of a suspension up to the one from which on the VM is suspended.
var suspendHooks = []string{"store pausing", "freeze", "froze", "save", "still", "shape", "store suspended"}

// TestSuspendFails fails each part of a suspension: the VM is as before, and can be suspended when the cause is gone.
func TestSuspendFails(t *testing.T) {
	t.Parallel()
	for _, from := range []model.State{model.Running, model.Paused} {
		for _, hook := range suspendHooks {
			if from == model.Paused && strings.HasPrefix(hook, "fr") {
				continue // its processes are held already
			}
			t.Run(string(from)+"/"+hook, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				if from == model.Paused {
					d.pause(t, v)
				}
				before := h.files()
				h.failing(hook, errBoom)
				wantFails(t, "the suspension", errBoom, from)(d.Suspend(t.Context(), "a", nil))
				h.failing(hook, nil)
				h.wantFiles(t, before)
				if from == model.Paused {
					d.wantPaused(t, v)
				} else {
					d.goesOn(t, v)
				}
				d.suspend(t, v)
				d.resume(t, v)
				d.goesOn(t, v)
			})
		}
	}
}

// TestUnrecordedPause has a disk on which for a while nothing can be stored at all: a VM whose pause or suspension failed for that is let go on, and not
// ended, by whatever comes next.
func TestUnrecordedPause(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]func(context.Context, *daemon) error{
		"pause":   func(ctx context.Context, d *daemon) error { _, err := d.Pause(ctx, "a", nil); return err },
		"suspend": func(ctx context.Context, d *daemon) error { _, err := d.Suspend(ctx, "a", nil); return err },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			for _, state := range []string{"paused", "suspended", "running"} {
				h.failing("store "+state, errBoom)
			}
			if err := command(t.Context(), d); !errors.Is(err, errBoom) {
				t.Errorf("got %v", err)
			}
			for _, state := range []string{"paused", "suspended", "running"} {
				h.failing("store "+state, nil)
			}
			h.wantMachines(t, 1)
			claim(t, !h.computer.Halted(v.ID), "the machine is halted after the failed %s", name)
			claim(t, !h.look(v).Frozen, "the processes are frozen after the failed %s", name)
			if _, err := d.Start(t.Context(), "a", model.Start{}, nil); err != nil {
				t.Error(err)
			}
			d.goesOn(t, v)
		})
	}
}

// TestSuspendLeavesSomething fails the clean-up after a suspension: the VM is suspended all the same and keeps its memory, whoever tries again, and it does not
// go on beside what is left.
func TestSuspendLeavesSomething(t *testing.T) {
	t.Parallel()
	retries := map[string]func(*testing.T, *daemon) *daemon{
		"resume":  func(_ *testing.T, d *daemon) *daemon { return d },
		"in time": func(t *testing.T, d *daemon) *daemon { d.retryCleanups(t.Context()); return d },
		"suspend": func(t *testing.T, d *daemon) *daemon { d.suspend(t, d.List()[0]); return d },
		"daemon":  func(_ *testing.T, d *daemon) *daemon { d.die(); return d.daemon() },
	}
	for _, hook := range []string{"signal", "undo two", "undo one"} {
		for name, retry := range retries {
			t.Run(hook+"/"+name, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				before := h.files()
				h.failing(hook, errBoom)
				suspended := func(when string) {
					t.Helper()
					got, _ := d.Get("a")
					if got.State != model.Suspended {
						t.Fatalf("%s, the VM is %s, not suspended", when, got.State)
					}
					claim(t, got.Runtime != nil, "%s, the record does not name the machine that is left", when)
					wantLastError(t, got, "boom")
					wantLastHint(t, got)
				}
				if _, err := d.Suspend(t.Context(), "a", nil); !errors.Is(err, errBoom) {
					t.Errorf("the suspension returned %v, not the error of its hook", err)
				}
				suspended("at first")
				machines := h.running()
				if _, err := d.Resume(t.Context(), "a", nil); !errors.Is(err, errBoom) {
					t.Errorf("the resume returned %v, not %v", err, errBoom)
				}
				h.wantMachines(t, machines)
				suspended("resumed")
				d.retryCleanups(t.Context())
				suspended("tried again")
				d.die()
				h.wantMachines(t, machines)
				d = h.daemon()
				suspended("with another daemon")
				d.snap(t, v, "s")
				h.failing(hook, nil)
				d = retry(t, d)
				d.wantState(t, "a", model.Suspended)
				if name != "resume" {
					got, _ := d.Get("a")
					wantNoRuntime(t, got)
					wantNoLastError(t, got)
					h.wantMachines(t, 0)
				}
				d.resume(t, v)
				d.goesOn(t, v)
				h.wantFiles(t, before)
				h.wantMachines(t, 1)
				got, _ := d.Get("a")
				wantNoLastError(t, got)
			})
		}
	}
}

// TestSuspendedMachineEndsLate has one that would not end with the suspension, and does so later.
func TestSuspendedMachineEndsLate(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	h.failing("signal", errBoom)
	wantFails(t, "the suspension", errBoom, model.Suspended)(d.Suspend(t.Context(), "a", nil))
	h.end(v, vmm.ExitCrashed)
	h.failing("signal", nil)
	waitFor(t, func() bool { got, _ := d.Get("a"); return got.Runtime == nil })
	d.wantState(t, "a", model.Suspended)
	d.resume(t, v)
	d.goesOn(t, v)
}

// TestPausedMachineEnds by itself or by a signal.
func TestPausedMachineEnds(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.pause(t, v)
	h.end(v, vmm.ExitCrashed)
	waitFor(t, func() bool { return d.state(t, "a") == model.Stopped })
	got, _ := d.Get("a")
	wantLastError(t, got, "")
	wantNoRuntime(t, got)
	d.running(t, "a")
	d.pause(t, v)
	wantEnds(t, "the kill", model.Stopped)(d.Kill(t.Context(), "a", syscall.SIGKILL))
}

// TestMachineEndsWhileItIsSuspended must not leave the memory of a machine that was not halted.
func TestMachineEndsWhileItIsSuspended(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"freeze", "still"} {
		t.Run(hook, func(t *testing.T) {
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			release := h.hanging(hook)
			errs := make(chan error, 1)
			go func() { _, err := d.Suspend(t.Context(), "a", nil); errs <- err }()
			waitFor(t, func() bool { return h.called(hook) > 0 })
			h.end(v, vmm.ExitCrashed)
			release()
			if err := <-errs; err == nil {
				t.Errorf("%s: it was suspended", hook)
			}
			waitFor(t, func() bool { return d.state(t, "a") == model.Stopped })
			d.nothingSaved(t)
		})
	}
}

// TestSuspendOnAFullDisk leaves the VM running.
func TestSuspendOnAFullDisk(t *testing.T) {
	h := newHost(t)
	fill, free := h.small(h.layout.State, 32*model.MiB)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	before := h.files()
	for _, leave := range []model.Bytes{0, 4 * model.KiB, 8 * model.KiB} { // not even the database's log may have room
		fill(leave + 1)
		if _, err := d.Suspend(t.Context(), "a", nil); err == nil {
			t.Errorf("with %v left it was suspended", leave)
			d.Resume(t.Context(), "a", nil)
		} else {
			wantDiskFull(t, err)
		}
		free()
		if _, err := d.Start(t.Context(), "a", model.Start{}, nil); err != nil {
			t.Error(err)
		}
		d.goesOn(t, v)
		h.wantFiles(t, before)
	}
	d.suspend(t, v)
	d.resume(t, v)
	d.goesOn(t, v)
}
