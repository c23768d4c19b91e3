package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/disk"
	"banger/internal/model"
	"banger/internal/step"
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
				h.wantWork(t, v, text)
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
// then is what it was, or it has all that the snapshot has: both disks and the memory.
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
				claim(t, !strings.Contains(strings.Join(h.files(), " "), "/"+disk.TempPrefix), "%sunfinished files are left: %v", when, h.files())
				h.wantStored(t, 1)
				switch {
				case whose == "a":
					equal(t, when+"the state of the VM with its own disks", got.State, model.Running)
					d.wantContinues(t, v)
				case got.State != model.Running:
					equal(t, when+"the state of the VM with the snapshot's disks", got.State, model.Suspended)
				}
				d.start(t, "a")
				equal(t, when+"the text in the memory after a start", h.memoryOf(got).Data, "work of "+whose)
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
					d.start(t, "a")
					equal(t, when+"the text in the memory after a start", h.memoryOf(got).Data, "work of of")
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
	h.wantWork(t, v, "work of of")
	got, _ := d.Get("a")
	wantNoLastError(t, got)
}

// TestRestoreIntoCutOffAfterAWrite cuts a restore in place off after the guest has written to its
// disk. The machine continues if it is there. Otherwise the VM has the snapshot's disk and memory
// again, as long as there is the snapshot.
func TestRestoreIntoCutOffAfterAWrite(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"do post-start/one", "store running"} {
		for _, how := range []string{"killed", "failed", "power loss", "power loss without the snapshot", "failed with its cleanup"} {
			t.Run(hook+" "+how, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				s := d.snap(t, d.worker(t, model.Create{Name: "of"}), "s")
				v := d.worker(t, model.Create{Name: "a"})
				d.bringTo(t, v, model.Stopped)
				dead := d
				restore := func(ctx context.Context) error {
					_, err := dead.RestoreSnapshot(ctx, "s", model.Restore{Into: "a"}, func(e step.Event) {
						if e.Step == "assume" && e.Phase == step.Done {
							h.work(v, "more")
							damage(t, os.Chtimes(h.layout.VM(v.ID).SystemDisk(), time.Time{}, time.Now().Add(time.Second)))
						}
						if e.Step == "assume" && how == "power loss without the snapshot" {
							damage(t, os.RemoveAll(h.layout.Snapshots()+"/"+s.ID))
						}
					})
					return err
				}
				machines := 1
				if how == "killed" || strings.HasPrefix(how, "power loss") {
					if how != "killed" {
						h.losePower()
						machines = 0
					}
					d = d.killedIn(hook, func(ctx context.Context) { restore(ctx) })
				} else {
					h.failing(hook, errBoom)
					if how == "failed with its cleanup" {
						h.failing("undo one", errBoom)
					}
					if err := restore(t.Context()); !errors.Is(err, errBoom) {
						t.Errorf("the restore returned %v, not the error of its hook", err)
					}
					h.failing(hook, nil)
					h.failing("undo one", nil)
				}
				if how == "killed" {
					d.wantRunning(t, v)
					h.wantWork(t, v, "more")
					h.wantGuest(t, v, "a", 1)
					d.wantNothingSaved(t)
					got, _ := d.Get("a")
					equal(t, "the origin of the start", *got.Boot.Origin, model.Origin{Kind: model.FromSnapshot, Of: s.ID, Name: "of"})
					return
				}
				h.wantMachines(t, machines)
				if how == "power loss without the snapshot" {
					d.wantState(t, "a", model.Failed)
					d.wantNothingSaved(t)
					d.start(t, "a")
					h.wantBooted(t, v, "more")
					return
				}
				d.wantState(t, "a", model.Suspended)
				d.start(t, "a")
				h.wantWork(t, v, "work of of")
				d.wantNothingSaved(t)
			})
		}
	}
}

// TestRestoredAndNotStarted uses a VM whose restore was cut off before its start: like any other
// suspended VM.
func TestRestoredAndNotStarted(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(*testing.T, *daemon, model.VM){
		"kill": func(t *testing.T, d *daemon, v model.VM) {
			if _, err := d.Kill(t.Context(), "a", syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			d.wantState(t, "a", model.Stopped)
			d.wantNothingSaved(t)
			d.start(t, "a")
			d.wantBooted(t, v, "work of of")
		},
		"fork": func(t *testing.T, d *daemon, v model.VM) {
			child := d.fork(t, v, model.Fork{})[0]
			d.wantWork(t, child, "work of of")
			d.wantState(t, "a", model.Suspended)
		},
		"snapshot": func(t *testing.T, d *daemon, v model.VM) {
			d.snap(t, v, "again")
			d.wantWork(t, d.restore(t, "again", model.Restore{Fork: model.Fork{Name: "child"}})[0], "work of of")
		},
		"restore": func(t *testing.T, d *daemon, v model.VM) {
			got := d.restore(t, "s", model.Restore{Into: "a", Force: true, DisksOnly: true})[0]
			equal(t, "the state of a VM that got disks alone", got.State, model.Stopped)
			d.wantNothingSaved(t)
		},
		"no snapshot": func(t *testing.T, d *daemon, v model.VM) {
			if _, err := d.Library().Delete(t.Context(), "s"); err != nil {
				t.Fatal(err)
			}
			d.resume(t, v)
			d.wantWork(t, v, "work of of")
			d.suspend(t, v)
			d.resume(t, v)
			d.wantWork(t, v, "work of of")
		},
		"power loss": func(t *testing.T, d *daemon, v model.VM) {
			d.die()
			d = d.daemon()
			d.resume(t, v)
			d.wantWork(t, v, "work of of")
			got, _ := d.Get("a")
			equal(t, "the origin of the start", got.Boot.Origin.Kind, model.FromSnapshot)
			equal(t, "the VM's name in its guest", d.memoryOf(v).Name, "a")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			d.snap(t, d.worker(t, model.Create{Name: "of"}), "s")
			v, dead := d.worker(t, model.Create{Name: "a"}), d
			d = d.killedIn("do vmm", func(ctx context.Context) {
				dead.RestoreSnapshot(ctx, "s", model.Restore{Into: "a", Force: true}, nil)
			})
			d.wantState(t, "a", model.Suspended)
			use(t, d, v)
		})
	}
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
