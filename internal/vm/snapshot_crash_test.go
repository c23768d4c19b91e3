package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"banger/internal/disk"
	"banger/internal/model"
)

// TestKilledWhileRestoringInto kills the daemon in a restore in place. Nothing leaks, no disk is
// used with the wrong image, and the restore can be repeated.
func TestKilledWhileRestoringInto(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{
		"shape", "signal", "undo one", "store stopped", "store starting", "restore", "do vmm", "do assume",
		"store running",
	} {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			of := d.worker(t, model.Create{Name: "of"})
			d.snap(t, of, "s")
			v := d.worker(t, model.Create{Name: "a", Image: "other"})
			before := h.files()
			dead := d
			d = d.killedIn(hook, func(ctx context.Context) {
				dead.RestoreSnapshot(ctx, "s", model.Restore{Into: "a", Force: true}, nil)
			})
			got, err := d.Get("a")
			if err != nil {
				t.Fatal(err)
			}
			text := h.onDisk(got)
			if want, known := map[string]string{"id-of-img": "work of of", "id-of-other": "work of a"}[got.DiskImage]; known {
				equal(t, "the text on the disk, which is recorded as over "+got.DiskImage+",", text, want)
			} else {
				t.Errorf("the disk is recorded as over %q", got.DiskImage)
			}
			h.wantStored(t, 1)
			if got.State == model.Running {
				h.wantWork(t, v, "work of a")
				h.wantFiles(t, before)
			} else if after := h.files(); slices.Contains(after, h.layout.VM(v.ID).Run) {
				t.Errorf("the runtime directory of a VM that does not run is left: %v", after)
			}
			again := d.restore(t, "s", model.Restore{Into: "a", Force: true})[0]
			equal(t, "the VM after a second restore", again.State, model.Running)
			h.wantWork(t, again, "work of of")
			h.wantMachines(t, 2)
			d.wantContinues(t, of)
		})
	}
}

// TestRestoreIntoIsAllOrNothing kills the daemon at every moment of a restore in place. The VM
// then has its own disks or the snapshot's, never one of each, and its record says which.
func TestRestoreIntoIsAllOrNothing(t *testing.T) {
	t.Parallel()
	for name, homes := range map[string]struct{ of, a bool }{"two disks": {true, true}, "one less": {false, true}, "one more": {true, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			size := func(has bool) *model.Bytes { return ptr(map[bool]model.Bytes{true: 64 * model.MiB}[has]) }
			var seen []string
			outcomes := map[string]int{}
			for n := 1; ; n++ {
				h := newHost(t)
				h.homes = true
				d := h.daemon()
				of := d.worker(t, model.Create{Name: "of", WorkDiskSize: size(homes.of)})
				v := d.worker(t, model.Create{Name: "a", Image: "other", WorkDiskSize: size(homes.a)})
				home := map[string]string{"of": "", "a": ""}
				for _, one := range []model.VM{of, v} {
					if one.Spec.WorkDiskSize > 0 {
						home[one.Spec.Name] = "home of " + one.Spec.Name
						h.writeWorkDisk(one, home[one.Spec.Name])
					}
				}
				d.snap(t, of, "s")
				dead := d
				hook, d := d.killedAt(n, func(ctx context.Context) {
					dead.RestoreSnapshot(ctx, "s", model.Restore{Into: "a", Force: true}, h.reporter())
				})
				seen = append(seen, hook)
				got, err := d.Get("a")
				if err != nil {
					t.Fatal(err)
				}
				whose := map[string]string{"id-of-img": "of", "id-of-other": "a"}[got.DiskImage]
				outcomes[whose]++
				when := fmt.Sprintf("killed at moment %d, %q: ", n, hook)
				system, work := h.onDisk(got), h.readWorkDisk(got)
				equal(t, when+"the text on the system disk", system, "work of "+whose)
				equal(t, when+"the text on the work disk", work, home[whose])
				equal(t, when+"the image in the spec", got.Spec.ImageID, got.DiskImage)
				claim(t, (got.Spec.WorkDiskSize > 0) == (work != ""),
					"%sthe spec has a work disk of %v, which holds %q", when, got.Spec.WorkDiskSize, work)
				claim(t, (got.Parent != nil) == (whose == "of"),
					"%sthe VM has the disks of %q, but the parent %+v", when, whose, got.Parent)
				claim(t, len(got.Restoring) == 0,
					"%sthe restore of %v is still recorded as unfinished", when, got.Restoring)
				_, err = os.Stat(h.layout.VM(v.ID).Restored())
				claim(t, err != nil, "%srestored disks are left: %v", when, h.files())
				h.wantStored(t, 1)
				if whose == "a" {
					equal(t, when+"the state of the VM with its own disks", got.State, model.Running)
					d.wantContinues(t, v)
				}
				d.start(t, "a")
				equal(t, when+"the text on the system disk after a start", h.onDisk(got), "work of "+whose)
				equal(t, when+"the text on the work disk after a start", h.readWorkDisk(got), home[whose])
				again := d.restore(t, "s", model.Restore{Into: "a", Force: true})[0]
				equal(t, when+"the work after a second restore", h.workOf(again), "work of of")
				equal(t, when+"the text on the work disk after a second restore", h.readWorkDisk(again), home["of"])
				h.wantMachines(t, 2)
				d.die()
				if hook == "" {
					break
				}
			}
			claim(t, outcomes["a"] > 0, "no kill left the VM its own disks: %v", outcomes)
			claim(t, outcomes["of"] > 0, "no kill left the VM the snapshot's disks: %v", outcomes)
			for _, moment := range []string{"report done place system", "report started place work"} {
				claim(t, slices.Contains(seen, moment), "the daemon was never killed at %q, only at %q", moment, seen)
			}
		})
	}
}

// TestRestoreIntoKeepsMemoryOrReplacesIt kills the daemon at every moment of a restore in place of
// a VM whose memory matters. Either the VM is as it was, with its memory, or it has the snapshot's
// disks.
func TestRestoreIntoKeepsMemoryOrReplacesIt(t *testing.T) {
	t.Parallel()
	for _, from := range []model.State{model.Paused, model.Suspended} {
		t.Run(string(from), func(t *testing.T) {
			t.Parallel()
			outcomes := map[string]int{}
			for n := 1; ; n++ {
				h := newHost(t)
				d := h.daemon()
				of := d.worker(t, model.Create{Name: "of"})
				d.snap(t, of, "s")
				v := d.worker(t, model.Create{Name: "a", Image: "other"})
				d.bringTo(t, v, from)
				dead := d
				hook, d := d.killedAt(n, func(ctx context.Context) {
					dead.RestoreSnapshot(ctx, "s", model.Restore{Into: "a", Force: true}, h.reporter())
				})
				got, err := d.Get("a")
				if err != nil {
					t.Fatal(err)
				}
				when := fmt.Sprintf("killed at moment %d, %q: ", n, hook)
				outcomes[got.DiskImage]++
				if got.DiskImage == "id-of-other" {
					equal(t, when+"the state of the VM with its own disks", got.State, from)
					d.resume(t, v)
					d.wantContinues(t, v)
				} else {
					equal(t, when+"the text on the disk", h.onDisk(got), "work of of")
					claim(t, !disk.MayExist(h.layout.VM(v.ID).Suspended()), "%sthe memory of before the restore is left", when)
					d.start(t, "a")
				}
				d.die()
				if hook == "" {
					break
				}
			}
			claim(t, outcomes["id-of-other"] > 0, "no kill left the VM as it was: %v", outcomes)
			claim(t, outcomes["id-of-img"] > 0, "no kill left the VM the snapshot's disks: %v", outcomes)
		})
	}
}

// TestRestoreIntoThatCannotBeRecorded checks that a VM continues whose restore could not be
// recorded.
func TestRestoreIntoThatCannotBeRecorded(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.snap(t, v, "s")
	h.failing("store running", errBoom)
	if _, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a", Force: true}, nil); !errors.Is(err, errBoom) {
		t.Errorf("the restore returned %v, not the error of the store", err)
	}
	h.failing("store running", nil)
	d.wantContinues(t, v)
	d.suspend(t, v)
	d.resume(t, v)
	d.wantContinues(t, v)
}

// TestRestoreIntoCompletesWhenTheMachineEnds restores into a VM whose machine does not end. The
// next operation completes the restore.
func TestRestoreIntoCompletesWhenTheMachineEnds(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	of := d.worker(t, model.Create{Name: "of"})
	d.snap(t, of, "s")
	v := d.worker(t, model.Create{Name: "a"})
	h.failing("signal", errBoom)
	if _, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a", Force: true}, nil); !errors.Is(err, errBoom) {
		t.Errorf("the restore returned %v, not the error of the signal", err)
	}
	d.wantState(t, "a", model.Broken)
	if _, err := d.Start(t.Context(), "a", model.Start{}, nil); !errors.Is(err, errBoom) {
		t.Errorf("the start returned %v, although the old machine has the disks", err)
	}
	h.failing("signal", nil)
	d.start(t, "a")
	h.wantBooted(t, v, "work of of")
	got, _ := d.Get("a")
	wantNoLastError(t, got)
}

// TestKilledInAFirstStart kills the daemon in a restore into a VM that has never run. The VM
// stays, because it is no child of a fork.
func TestKilledInAFirstStart(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	d.worker(t, model.Create{Name: "a"})
	if _, err := d.CreateSnapshot(t.Context(), "a", "s", nil); err != nil {
		t.Fatal(err)
	}
	v, dead := d.create(t, model.Create{Name: "b"}), d
	d = d.killedIn("restore", func(ctx context.Context) { dead.RestoreSnapshot(ctx, "s", model.Restore{Into: "b"}, nil) })
	if _, err := d.Get(v.ID); err != nil {
		t.Fatal(err)
	}
	d.start(t, "b")
	h.wantOnDisk(t, v, "work of a")
}
