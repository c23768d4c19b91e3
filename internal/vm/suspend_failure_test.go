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

// TestPauseFails makes each part of a pause fail. The VM continues, and can be paused when the
// cause is gone.
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
			d.wantContinues(t, v)
			d.pause(t, v)
			d.resume(t, v)
			d.wantContinues(t, v)
		})
	}
}

// TestResumeFails makes each part of resuming a paused VM fail. A VM that may not run stays paused,
// and can be resumed when the cause is gone.
func TestResumeFails(t *testing.T) {
	t.Parallel()
	for hook, left := range map[string]model.State{
		"store pausing": model.Paused, "resume": model.Paused, "thaw": model.Paused, "store running": model.Pausing,
	} {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.pause(t, v)
			h.failing(hook, errBoom)
			wantFails(t, "the resume", errBoom, left)(d.Resume(t.Context(), "a", nil))
			h.failing(hook, nil)
			d.resume(t, v)
			d.wantContinues(t, v)
		})
	}
}

// suspendHooks are the moments of a suspension before the VM is suspended.
var suspendHooks = []string{"store pausing", "freeze", "froze", "save", "still", "shape", "store suspended"}

// TestSuspendFails makes each part of a suspension fail. The VM is as before, and can be suspended
// when the cause is gone.
func TestSuspendFails(t *testing.T) {
	t.Parallel()
	for _, from := range []model.State{model.Running, model.Paused} {
		for _, hook := range suspendHooks {
			if from == model.Paused && strings.HasPrefix(hook, "fr") {
				continue // its processes are already frozen
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
					d.wantContinues(t, v)
				}
				d.suspend(t, v)
				d.resume(t, v)
				d.wantContinues(t, v)
			})
		}
	}
}

// TestUnrecordedPause has a disk on which nothing can be stored for a while. A VM whose pause or
// suspension fails for that reason continues, and the next operation does not end it.
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
				t.Errorf("the %s returned %v, not the error of its hook", name, err)
			}
			for _, state := range []string{"paused", "suspended", "running"} {
				h.failing("store "+state, nil)
			}
			h.wantMachines(t, 1)
			claim(t, !h.computer.Halted(v.ID), "the machine is halted after the failed %s", name)
			claim(t, !h.memoryOf(v).Frozen, "the processes are frozen after the failed %s", name)
			if _, err := d.Start(t.Context(), "a", model.Start{}, nil); err != nil {
				t.Error(err)
			}
			d.wantContinues(t, v)
		})
	}
}

// TestSuspendLeavesSomething makes the cleanup after a suspension fail. The VM is suspended and
// keeps its memory. It is not resumed before the cleanup succeeds.
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
				d.wantContinues(t, v)
				h.wantFiles(t, before)
				h.wantMachines(t, 1)
				got, _ := d.Get("a")
				wantNoLastError(t, got)
			})
		}
	}
}

// TestSuspendedMachineEndsLate has a machine that survives the suspension of its VM and ends
// later.
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
	d.wantContinues(t, v)
}

// TestPausedMachineEnds ends the machine of a paused VM, and kills a paused VM.
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
	d.start(t, "a")
	d.pause(t, v)
	wantEnds(t, "the kill", model.Stopped)(d.Kill(t.Context(), "a", syscall.SIGKILL))
}

// TestMachineEndsWhileItIsSuspended checks that no memory is kept of a machine that ended while it
// was saved.
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
				t.Error("the suspension succeeded although its machine ended")
			}
			waitFor(t, func() bool { return d.state(t, "a") == model.Stopped })
			d.wantNothingSaved(t)
		})
	}
}

// TestSuspendOnAFullDisk checks that a VM that cannot be saved keeps running.
func TestSuspendOnAFullDisk(t *testing.T) {
	h := newHost(t)
	fill, free := h.smallFilesystem(h.layout.State, 32*model.MiB)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	before := h.files()
	// Even the database's log may have no room.
	for _, leave := range []model.Bytes{0, 4 * model.KiB, 8 * model.KiB} {
		fill(leave + 1)
		if _, err := d.Suspend(t.Context(), "a", nil); err == nil {
			t.Errorf("with %v left the VM was suspended", leave)
			d.Resume(t.Context(), "a", nil)
		} else {
			wantDiskFull(t, err)
		}
		free()
		if _, err := d.Start(t.Context(), "a", model.Start{}, nil); err != nil {
			t.Error(err)
		}
		d.wantContinues(t, v)
		h.wantFiles(t, before)
	}
	d.suspend(t, v)
	d.resume(t, v)
	d.wantContinues(t, v)
}
