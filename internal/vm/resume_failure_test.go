package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestDamagedMemory damages the saved memory of a suspended VM. The VM is not resumed, its disks
// stay, and a kill discards its memory.
func TestDamagedMemory(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"meta.json", "memory", "device"} {
		for _, how := range damages {
			t.Run(file+" "+how.name, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				d.suspend(t, v)
				how.do(t, filepath.Join(h.layout.VM(v.ID).Suspended(), file))
				for name, err := range map[string]error{
					"resume": second(d.Resume(t.Context(), "a", nil)),
					"start":  second(d.Start(t.Context(), "a", model.Start{}, nil)),
					"stop":   second(d.Stop(t.Context(), "a", nil, nil)),
				} {
					claim(t, fault.KindOf(err) == fault.Damaged, "the %s with damaged memory returned %v", name, err)
					wantHint(t, "the "+name, err, "banger vm kill a")
				}
				d.wantState(t, "a", model.Suspended)
				h.wantMachines(t, 0)
				if got, err := d.Kill(t.Context(), "a", syscall.SIGKILL); err != nil || got.State != model.Stopped {
					t.Fatalf("after the kill the VM is %s: %v", got.State, err)
				}
				d.wantNothingSaved(t)
				d.start(t, "a")
				h.wantBooted(t, v, "work of a")
			})
		}
	}
}

// TestResumeOfSuspendedFails makes each part of a resume fail. As long as the guest has written
// nothing, the resume can be repeated.
func TestResumeOfSuspendedFails(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{
		"store starting", "do preflight", "do initramfs", "shape", "do prepare/two", "restore", "do vmm",
		"do agent", "thaw", "do post-start/one", "store running",
	} {
		for _, wrote := range []bool{false, true} {
			if wrote && hook != "thaw" && hook != "do post-start/one" && hook != "store running" {
				continue // the guest has not run yet
			}
			t.Run(fmt.Sprint(hook, " wrote ", wrote), func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				d.suspend(t, v)
				before := h.files()
				resume := func() (model.VM, error) { return d.Resume(t.Context(), "a", nil) }
				_, err := failingOnce(h, hook, errBoom, resume, func() {
					if !wrote {
						return
					}
					h.work(v, "work of a")
					later := time.Now().Add(time.Second) // also where the clock is coarse
					if err := os.Chtimes(h.layout.VM(v.ID).SystemDisk(), later, later); err != nil {
						t.Error(err)
					}
				})
				if !errors.Is(err, errBoom) {
					t.Errorf("the resume returned %v, not the error of its hook", err)
				}
				h.wantMachines(t, 0)
				if wrote {
					d.wantState(t, "a", model.Failed)
					got, _ := d.Get("a")
					wantLastError(t, got, "")
					d.wantNothingSaved(t)
					d.start(t, "a")
					h.wantBooted(t, v, "work of a")
					return
				}
				if got := d.state(t, "a"); got != model.Suspended {
					t.Fatalf("the VM is %s, not suspended", got)
				}
				h.wantFiles(t, before)
				d.resume(t, v)
				d.wantContinues(t, v)
			})
		}
	}
}

// TestResumeAndItsCleanupFail makes a resume fail, and the removal of what it made. The memory
// stays until the rest is gone. It is of use unless the guest wrote to a disk meanwhile.
func TestResumeAndItsCleanupFail(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cleanup       string
		wrote, killed bool
	}{
		{"undo one", false, false}, {"undo one", false, true}, {"signal", false, false}, {"signal", false, true},
		{"undo one", true, false}, {"signal", true, true},
	} {
		t.Run(fmt.Sprintf("%s wrote %v killed %v", c.cleanup, c.wrote, c.killed), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.suspend(t, v)
			h.failing("do agent", errBoom)
			h.failing(c.cleanup, errBoom)
			if _, err := d.Resume(t.Context(), "a", nil); !errors.Is(err, errBoom) {
				t.Errorf("the resume returned %v, not the error of its hook", err)
			}
			h.failing("do agent", nil)
			d.wantState(t, "a", model.Suspended)
			if c.wrote {
				h.occupy(v, model.MiB)
			}
			if c.killed {
				d.die()
				d = h.daemon()
				d.wantState(t, "a", model.Suspended)
			}
			if _, err := d.Resume(t.Context(), "a", nil); !errors.Is(err, errBoom) {
				t.Errorf("a resume returned %v, although the old run still has the disks", err)
			}
			h.failing(c.cleanup, nil)
			if !c.wrote {
				d.resume(t, v)
				d.wantContinues(t, v)
				return
			}
			if got, err := d.Resume(t.Context(), "a", nil); err == nil || got.State != model.Stopped {
				t.Fatalf("a resume from outdated memory made the VM %s: %v", got.State, err)
			}
			d.wantNothingSaved(t)
			d.start(t, "a")
			h.wantBooted(t, v, "work of a")
		})
	}
}

// TestResumeKilledInItsCleanup kills the daemon while it removes what a failed resume made, and
// makes the next daemon's removal fail. The memory stays.
func TestResumeKilledInItsCleanup(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"signal", "undo two", "undo one", "store suspended"} {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.suspend(t, v)
			h.failing("do agent", errBoom)
			h.failing("undo one", errBoom)
			dead := d
			d = d.killedIn(hook, func(ctx context.Context) { dead.Resume(ctx, "a", nil) })
			h.failing("do agent", nil)
			d.wantState(t, "a", model.Suspended)
			h.failing("undo one", nil)
			d.resume(t, v)
			d.wantContinues(t, v)
		})
	}
}

// TestResumeWhoseEndCannotBeRecorded makes a resume fail on a full disk. The memory stays.
func TestResumeWhoseEndCannotBeRecorded(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	free := h.fullDisk("do agent", "store suspended")
	if _, err := d.Resume(t.Context(), "a", nil); !errors.Is(err, errBoom) {
		t.Errorf("the resume returned %v, not the error of its hook", err)
	}
	d.wantState(t, "a", model.Starting)
	free()
	d.resume(t, v)
	d.wantContinues(t, v)
}

// TestResumeWithoutItsImage resumes a VM whose image was deleted by hand. It can be resumed when
// the image is back.
func TestResumeWithoutItsImage(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	h.setGone("id-of-img", true)
	got, err := d.Resume(t.Context(), "a", nil)
	wantKind(t, "the resume without an image", err, fault.NotFound)
	equal(t, "the VM after the failed resume", got.State, model.Suspended)
	h.setGone("id-of-img", false)
	d.resume(t, v)
	d.wantContinues(t, v)
}

// TestCancelledResume cancels a resume. The VM stays suspended.
func TestCancelledResume(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	release := h.hanging("do agent")
	defer release()
	calls := h.called("do agent")
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 1)
	go func() { _, err := d.Resume(ctx, "a", nil); errs <- err }()
	waitFor(t, func() bool { return h.called("do agent") > calls })
	cancel()
	wantKind(t, "the cancelled resume", <-errs, fault.Canceled)
	d.wantState(t, "a", model.Suspended)
	h.wantMachines(t, 0)
	release()
	d.resume(t, v)
	d.wantContinues(t, v)
}

// TestForcedDeleteCancelsAResume checks that a forced deletion does not wait for a guest that does
// not answer.
func TestForcedDeleteCancelsAResume(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	defer h.hanging("do agent")()
	calls := h.called("do agent")
	errs := make(chan error, 1)
	go func() { _, err := d.Resume(t.Context(), "a", nil); errs <- err }()
	waitFor(t, func() bool { return h.called("do agent") > calls })
	if err := d.Delete(t.Context(), "a", true, nil); err != nil {
		t.Error(err)
	}
	wantKind(t, "the cancelled resume", <-errs, fault.Canceled)
	h.wantFiles(t, nil)
	h.wantMachines(t, 0)
	d.wantVMs(t, 0)
}

// TestFailedResumeIsNoStop checks that a VM with the policy remove-on-stop survives a failed
// resume: it has not stopped.
func TestFailedResumeIsNoStop(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a", Remove: model.RemoveOnStop})
	d.suspend(t, v)
	h.failing("do agent", errBoom)
	if _, err := d.Start(t.Context(), "a", model.Start{}, nil); !errors.Is(err, errBoom) {
		t.Errorf("the start returned %v, not the error of its hook", err)
	}
	h.failing("do agent", nil)
	d.resume(t, v)
	d.wantContinues(t, v)
}
