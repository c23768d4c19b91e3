package vm

import (
	"context"
	"os"
	"slices"
	"testing"

	"banger/internal/model"
)

// TestKilledWhileRestoringInto kills the daemon at each moment of a restore in place: nothing leaks, no disk is used with another image than its own, and
// the restore can be done again.
func TestKilledWhileRestoringInto(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"shape", "signal", "undo one", "store stopped", "store starting", "restore", "do vmm", "do assume", "store running"} {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			of := d.worker(t, model.Create{Name: "of"})
			d.snap(t, of, "s")
			v := d.worker(t, model.Create{Name: "a", Image: "other"})
			before := h.files()
			dead := d
			d = d.killedIn(hook, func(ctx context.Context) { dead.RestoreSnapshot(ctx, "s", model.Restore{Into: "a", Force: true}, nil) })
			got, err := d.Get("a")
			if err != nil {
				t.Fatal(err)
			}
			text := h.onDisk(got)
			if got.DiskImage == "id-of-img" && text != "work of of" || got.DiskImage == "other" && text != "work of a" {
				t.Errorf("a disk with %q is said to be of image %q", text, got.DiskImage)
			}
			if len(h.stored()) != 1 {
				t.Errorf("stored: %v", h.stored())
			}
			if got.State == model.Running {
				if after := h.files(); h.worked(v) != "work of a" || !slices.Equal(before, after) {
					t.Errorf("before %v, after %v", before, after)
				}
			} else if after := h.files(); slices.Contains(after, h.layout.VM(v.ID).Run) {
				t.Errorf("left: %v", after)
			}
			again := d.restore(t, "s", model.Restore{Into: "a", Force: true})[0]
			if again.State != model.Running || h.worked(again) != "work of of" || h.running() != 2 {
				t.Errorf("%s, %q, %d machines", again.State, h.worked(again), h.running())
			}
			d.goesOn(t, of)
		})
	}
}

// TestRestoreIntoIsAllOrNothing kills the daemon at every single moment of a restore in place. Afterwards the VM has its own disks or the snapshot's, never
// one of each, and its record says which.
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
						h.workOn(one, home[one.Spec.Name])
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
				if system, work := h.onDisk(got), h.workIn(got); system != "work of "+whose || work != home[whose] || got.Spec.ImageID != got.DiskImage ||
					(got.Spec.WorkDiskSize > 0) != (work != "") || (got.Parent != nil) != (whose == "of") || len(got.Restoring) != 0 {
					t.Errorf("killed at %d, %s: it has %q and %q on its disks, and is %+v", n, hook, system, work, got)
				}
				if _, err := os.Stat(h.layout.VM(v.ID).Restored()); err == nil || len(h.stored()) != 1 {
					t.Errorf("killed at %d, %s: left: %v, %v", n, hook, h.files(), h.stored())
				}
				d.running(t, "a")
				if h.onDisk(got) != "work of "+whose || h.workIn(got) != home[whose] {
					t.Errorf("killed at %d, %s: started, it has %q and %q", n, hook, h.onDisk(got), h.workIn(got))
				}
				again := d.restore(t, "s", model.Restore{Into: "a", Force: true})[0]
				if h.worked(again) != "work of of" || h.workIn(again) != home["of"] || h.running() != 2 {
					t.Errorf("killed at %d, %s: restored again, it has %q and %q", n, hook, h.worked(again), h.workIn(again))
				}
				d.die()
				if hook == "" {
					break
				}
			}
			if outcomes["a"] == 0 || outcomes["of"] == 0 || !slices.Contains(seen, "report done place system") || !slices.Contains(seen, "report started place work") {
				t.Errorf("%v, killed at %q", outcomes, seen)
			}
		})
	}
}

// TestKilledInAFirstStart restores a snapshot into a VM that has never run, and kills the daemon as it starts: the VM stays, as it is nobody's child.
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
	d.running(t, "b")
	if got := h.onDisk(v); got != "work of a" {
		t.Errorf("it has %q on its disk", got)
	}
}
