package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestRestoreWithAnotherVMM restores with a VMM of another version. The memory is refused before
// anything changes. The disks can be used.
func TestRestoreWithAnotherVMM(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.snap(t, v, "s")
	d.bringTo(t, v, model.Stopped)
	d.start(t, "a")
	h.work(v, "more")
	suspended := d.worker(t, model.Create{Name: "asleep"})
	d.suspend(t, suspended)
	d.die()
	h.version = "2.0"
	d = h.daemon()
	_, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a", Force: true}, nil)
	wantKind(t, "the restore in place", err, fault.Unsupported)
	wantHint(t, "the restore in place", err, "disks")
	d.wantState(t, "a", model.Running)
	h.wantWork(t, v, "more")
	before := h.files()
	forked, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{}, nil)
	wantNoChildren(t, forked, err, fault.Unsupported)
	claim(t, forked.Children[0].Hint != "", "the child failed without a hint: %s", forked.Children[0].Error)
	h.wantFiles(t, before)
	child := d.restore(t, "s", model.Restore{DisksOnly: true})[0]
	d.start(t, child.ID)
	h.wantOnDisk(t, child, "work of a")
	got, err := d.Resume(t.Context(), "asleep", nil)
	wantKind(t, "the resume", err, fault.Unsupported)
	wantHint(t, "the resume", err, "kill")
	equal(t, "the VM after the refused resume", got.State, model.Suspended)
}

// TestRestoredDisksSurviveAFailedStart checks that failed starts keep restored disks, although the
// VM has never run.
func TestRestoredDisksSurviveAFailedStart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		failed  model.State // of the VM after a start that failed
		restore func(*testing.T, *daemon) model.VM
	}{
		"new": {model.Failed, func(t *testing.T, d *daemon) model.VM {
			return d.restore(t, "s", model.Restore{DisksOnly: true, Fork: model.Fork{Name: "x"}})[0]
		}},
		"into": {model.Failed, func(t *testing.T, d *daemon) model.VM {
			d.create(t, model.Create{Name: "x"})
			return d.restore(t, "s", model.Restore{DisksOnly: true, Into: "x"})[0]
		}},
		"into, with memory": {model.Suspended, func(t *testing.T, d *daemon) model.VM {
			v := d.create(t, model.Create{Name: "x"})
			d.failing("do agent", errBoom)
			if _, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "x"}, nil); !errors.Is(err, errBoom) {
				t.Errorf("the restore returned %v, not the error of its hook", err)
			}
			d.failing("do agent", nil)
			return v
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.homes = true
			d := h.daemon()
			d.snap(t, d.worker(t, model.Create{Name: "of", WorkDiskSize: ptr(64 * model.MiB)}), "s")
			v := c.restore(t, d)
			work, err := os.Stat(h.layout.VM(v.ID).WorkDisk())
			if err != nil {
				t.Fatal(err)
			}
			h.failing("do assume", errBoom)
			wantFails(t, "the start", errBoom, c.failed)(d.Start(t.Context(), "x", model.Start{}, nil))
			dead := d
			h.losePower()
			d = d.killedIn("do post-start/two", func(ctx context.Context) {
				h.failing("do assume", nil)
				dead.Start(ctx, "x", model.Start{}, nil)
			})
			d.wantState(t, "x", c.failed)
			d.start(t, "x")
			if again, err := os.Stat(h.layout.VM(v.ID).WorkDisk()); err != nil {
				t.Errorf("the restored work disk is gone: %v", err)
			} else {
				equal(t, "the size of the work disk", again.Size(), work.Size())
			}
			h.wantOnDisk(t, v, "work of of")
		})
	}
}

// TestChildrenOfASnapshotFail makes each part of a restore fail. Nothing is left of the children,
// and the snapshot stays whole.
func TestChildrenOfASnapshotFail(t *testing.T) {
	t.Parallel()
	for _, hook := range childHooks {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			s := d.snap(t, v, "s")
			d.bringTo(t, v, model.Stopped)
			before := append(h.files(), h.stored()...)
			h.failing(hook, errBoom)
			forked, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Fork: model.Fork{Count: 2}}, nil)
			wantNoChildren(t, forked, err, fault.Internal)
			equal(t, "the number of children", len(forked.Children), 2)
			h.failing(hook, nil)
			h.wantAllFiles(t, before)
			h.wantMachines(t, 0)
			d.wantVMs(t, 1)
			child := d.restore(t, "s", model.Restore{})[0]
			wantMadeFrom(t, child, s)
			d.wantFork(t, child, v, "work of a")
		})
	}
}

// TestUnfinishedRestore has a disk that cannot be moved to its place. The VM cannot start until it
// can, and then has both disks.
func TestUnfinishedRestore(t *testing.T) {
	t.Parallel()
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprint("restarted ", restarted), func(t *testing.T) {
			h := newHost(t)
			h.homes = true
			d := h.daemon()
			of := d.worker(t, model.Create{Name: "of", WorkDiskSize: ptr(64 * model.MiB)})
			h.writeWorkDisk(of, "home of of")
			d.snap(t, of, "s")
			v := d.worker(t, model.Create{Name: "a", Image: "other"})
			inTheWay := filepath.Join(h.layout.VM(v.ID).WorkDisk(), "directory")
			damage(t, os.MkdirAll(inTheWay, 0o700))
			if _, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a", Force: true}, nil); err == nil {
				t.Fatal("a restore without a place for a disk succeeded")
			}
			h.setGone("id-of-img", true) // the record already names it
			if restarted {
				d.die()
				d = h.daemon()
			}
			for range 2 {
				if _, err := d.Start(t.Context(), "a", model.Start{}, nil); err == nil || !strings.Contains(err.Error(), "work") {
					t.Errorf("the start with half of the disks returned %v", err)
				}
			}
			h.setGone("id-of-img", false)
			damage(t, os.RemoveAll(filepath.Dir(inTheWay)))
			d.start(t, "a")
			h.wantOnDisk(t, v, "work of of")
			equal(t, "the text on the work disk", h.readWorkDisk(v), "home of of")
			got, _ := d.Get("a")
			claim(t, len(got.Restoring) == 0, "the restore of %v is still recorded as unfinished", got.Restoring)
			equal(t, "the image under the disk", got.DiskImage, "id-of-img")
			d.wantNothingSaved(t)
			d.die()
		})
	}
}

// TestRestoreThatCannotBeRecorded checks that a VM keeps its disks and its spec if its restore
// cannot be recorded.
func TestRestoreThatCannotBeRecorded(t *testing.T) {
	t.Parallel()
	for _, leftTo := range []string{"the same daemon", "the next daemon"} {
		t.Run(leftTo, func(t *testing.T) {
			h := newHost(t)
			d := h.daemon()
			d.snap(t, d.worker(t, model.Create{Name: "of"}), "s")
			v := d.worker(t, model.Create{Name: "a", Image: "other"})
			d.bringTo(t, v, model.Stopped)
			before := h.files()
			h.failing("store stopped", errBoom)
			if _, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a"}, nil); !errors.Is(err, errBoom) {
				t.Errorf("the restore returned %v, not the error of its hook", err)
			}
			h.failing("store stopped", nil)
			if leftTo == "the next daemon" {
				d.die()
				d = h.daemon()
				h.wantFiles(t, before)
			}
			got, _ := d.Get("a")
			equal(t, "the image under the disk, for "+leftTo+",", got.DiskImage, "id-of-other")
			equal(t, "the image in the spec, for "+leftTo+",", got.Spec.Image, "other")
			h.wantOnDisk(t, v, "work of a")
			d.start(t, "a")
			h.wantWork(t, d.restore(t, "s", model.Restore{Into: "a", Force: true})[0], "work of of")
			d.die()
		})
	}
}

// TestSnapshotOnAFullDisk checks that a snapshot or restore on a full disk changes nothing.
func TestSnapshotOnAFullDisk(t *testing.T) {
	h := newHost(t)
	fill, free := h.smallFilesystem(h.layout.State, 64*model.MiB)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	h.occupy(v, 4*model.MiB)
	fill(model.MiB)
	_, err := d.CreateSnapshot(t.Context(), "a", "s", nil)
	wantDiskFull(t, err)
	d.wantContinues(t, v)
	free()
	d.snap(t, v, "s")
	other := d.worker(t, model.Create{Name: "other", Image: "other"})
	before := append(h.files(), h.stored()...)
	fill(model.MiB)
	_, err = d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "other", Force: true}, nil)
	wantDiskFull(t, err)
	forked, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{}, nil)
	wantNoChildren(t, forked, err, fault.Unavailable)
	h.wantAllFiles(t, before)
	d.wantState(t, "other", model.Running)
	h.wantWork(t, other, "work of other")
	free()
	h.wantWork(t, d.restore(t, "s", model.Restore{Into: "other", Force: true})[0], "work of a")
}
