package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestRestoreOnAnotherMachine has a VMM of another version: the memory is refused before anything changes, the disks are of use.
func TestRestoreOnAnotherMachine(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.snap(t, v, "s")
	d.bring(t, v, model.Stopped)
	d.running(t, "a")
	h.work(v, "more")
	suspended := d.worker(t, model.Create{Name: "asleep"})
	d.suspend(t, suspended)
	d.die()
	h.version = "2.0"
	d = h.daemon()
	if _, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a", Force: true}, nil); fault.KindOf(err) != fault.Unsupported || !strings.Contains(fault.HintOf(err), "disks") {
		t.Errorf("in place: %v, hint %q", err, fault.HintOf(err))
	}
	if d.state(t, "a") != model.Running || h.worked(v) != "more" {
		t.Errorf("it is %s with %q", d.state(t, "a"), h.worked(v))
	}
	before := h.files()
	forked, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{}, nil)
	if err != nil || forked.Children[0].VM != nil || forked.Children[0].Kind != string(fault.Unsupported) || forked.Children[0].Hint == "" {
		t.Errorf("as a new VM: %+v, %v", forked, err)
	}
	if after := h.files(); !slices.Equal(before, after) {
		t.Errorf("before %v, after %v", before, after)
	}
	child := d.restore(t, "s", model.Restore{DisksOnly: true})[0]
	d.running(t, child.ID)
	if h.onDisk(child) != "work of a" {
		t.Errorf("%q on its disk", h.onDisk(child))
	}
	if got, err := d.Resume(t.Context(), "asleep", nil); fault.KindOf(err) != fault.Unsupported || got.State != model.Suspended || !strings.Contains(fault.HintOf(err), "kill") {
		t.Errorf("resuming: %s, %v, hint %q", got.State, err, fault.HintOf(err))
	}
}

// TestRestoredDisksSurviveAFailedStart: they are the user's, although the VM has never run.
func TestRestoredDisksSurviveAFailedStart(t *testing.T) {
	t.Parallel()
	for name, restore := range map[string]func(*testing.T, *daemon) model.VM{
		"new": func(t *testing.T, d *daemon) model.VM {
			return d.restore(t, "s", model.Restore{DisksOnly: true, Fork: model.Fork{Name: "x"}})[0]
		},
		"into": func(t *testing.T, d *daemon) model.VM {
			d.create(t, model.Create{Name: "x"})
			return d.restore(t, "s", model.Restore{DisksOnly: true, Into: "x"})[0]
		},
		"into, with memory": func(t *testing.T, d *daemon) model.VM {
			v := d.create(t, model.Create{Name: "x"})
			d.failing("do agent", errBoom)
			if _, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "x"}, nil); !errors.Is(err, errBoom) {
				t.Errorf("got %v", err)
			}
			d.failing("do agent", nil)
			return v
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.homes = true
			d := h.daemon()
			d.snap(t, d.worker(t, model.Create{Name: "of", WorkDiskSize: ptr(64 * model.MiB)}), "s")
			v := restore(t, d)
			work, err := os.Stat(h.layout.VM(v.ID).WorkDisk())
			if err != nil {
				t.Fatal(err)
			}
			h.failing("do assume", errBoom)
			if got, err := d.Start(t.Context(), "x", model.Start{}, nil); !errors.Is(err, errBoom) || got.State != model.Failed {
				t.Errorf("%s, %v", got.State, err)
			}
			dead := d
			d = d.killedIn("do post-start/two", func(ctx context.Context) {
				h.failing("do assume", nil)
				dead.Start(ctx, "x", model.Start{}, nil)
			})
			if d.state(t, "x") != model.Failed {
				t.Errorf("it is %s", d.state(t, "x"))
			}
			d.running(t, "x")
			if again, err := os.Stat(h.layout.VM(v.ID).WorkDisk()); err != nil || again.Size() != work.Size() || h.onDisk(v) != "work of of" {
				t.Errorf("%v, %q on its disk", err, h.onDisk(v))
			}
		})
	}
}

// TestChildrenOfASnapshotFail: nothing is left of them, and nothing is missing from the snapshot.
func TestChildrenOfASnapshotFail(t *testing.T) {
	t.Parallel()
	for _, hook := range childHooks {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			s := d.snap(t, v, "s")
			d.bring(t, v, model.Stopped)
			before := append(h.files(), h.stored()...)
			h.failing(hook, errBoom)
			forked, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Fork: model.Fork{Count: 2}}, nil)
			if err != nil || forked.Children[0].VM != nil || forked.Children[1].VM != nil || forked.Children[0].Kind != string(fault.Internal) {
				t.Errorf("%+v, %v", forked, err)
			}
			h.failing(hook, nil)
			if after := append(h.files(), h.stored()...); !slices.Equal(before, after) || h.running() != 0 || len(d.List()) != 1 {
				t.Errorf("before %v, after %v; %d machines", before, after, h.running())
			}
			child := d.restore(t, "s", model.Restore{})[0]
			isOf(t, child, s)
			d.isFork(t, child, v, "work of a")
		})
	}
}

// TestUnfinishedRestore has a disk that cannot be brought to its place for a while: the VM is of no use until it can, and has both disks then.
func TestUnfinishedRestore(t *testing.T) {
	t.Parallel()
	for _, restarted := range []bool{false, true} {
		h := newHost(t)
		h.homes = true
		d := h.daemon()
		of := d.worker(t, model.Create{Name: "of", WorkDiskSize: ptr(64 * model.MiB)})
		h.workOn(of, "home of of")
		d.snap(t, of, "s")
		v := d.worker(t, model.Create{Name: "a", Image: "other"})
		inTheWay := filepath.Join(h.layout.VM(v.ID).WorkDisk(), "folder")
		damage(t, os.MkdirAll(inTheWay, 0o700))
		if _, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a", Force: true}, nil); err == nil {
			t.Fatal("it was restored")
		}
		h.delete("id-of-img", true) // which the record names by now
		if restarted {
			d.die()
			d = h.daemon()
		}
		for range 2 {
			if _, err := d.Start(t.Context(), "a", model.Start{}, nil); err == nil || !strings.Contains(err.Error(), "work") {
				t.Errorf("restarted %v: it was started with half of its disks: %v", restarted, err)
			}
		}
		h.delete("id-of-img", false)
		damage(t, os.RemoveAll(filepath.Dir(inTheWay)))
		d.running(t, "a")
		if h.onDisk(v) != "work of of" || h.workIn(v) != "home of of" {
			t.Errorf("restarted %v: it has %q and %q", restarted, h.onDisk(v), h.workIn(v))
		}
		if got, _ := d.Get("a"); len(got.Restoring) != 0 || got.DiskImage != "id-of-img" {
			t.Errorf("restarted %v: %+v", restarted, got)
		}
		d.nothingSaved(t)
		d.die()
	}
}

// TestRestoreThatCannotBeRecorded leaves the VM what it was, but for its machine.
func TestRestoreThatCannotBeRecorded(t *testing.T) {
	t.Parallel()
	for _, leftTo := range []string{"the same daemon", "the next daemon"} {
		h := newHost(t)
		d := h.daemon()
		d.snap(t, d.worker(t, model.Create{Name: "of"}), "s")
		v := d.worker(t, model.Create{Name: "a", Image: "other"})
		d.bring(t, v, model.Stopped)
		before := h.files()
		h.failing("store stopped", errBoom)
		if _, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a"}, nil); !errors.Is(err, errBoom) {
			t.Errorf("got %v", err)
		}
		h.failing("store stopped", nil)
		if leftTo == "the next daemon" {
			d.die()
			d = h.daemon()
			if after := h.files(); !slices.Equal(before, after) {
				t.Errorf("before %v, after %v", before, after)
			}
		}
		if got, _ := d.Get("a"); got.DiskImage != "id-of-other" || got.Spec.Image != "other" || h.onDisk(v) != "work of a" {
			t.Errorf("%s: %+v with %q", leftTo, got, h.onDisk(v))
		}
		d.running(t, "a")
		if got := d.restore(t, "s", model.Restore{Into: "a", Force: true})[0]; h.worked(got) != "work of of" {
			t.Errorf("%s: it has %q", leftTo, h.worked(got))
		}
		d.die()
	}
}

// TestSnapshotOnAFullDisk leaves nothing, and whatever was there.
func TestSnapshotOnAFullDisk(t *testing.T) {
	h := newHost(t)
	fill, free := h.small(h.layout.State, 64*model.MiB)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	h.litter(v, 4*model.MiB)
	fill(model.MiB)
	_, err := d.CreateSnapshot(t.Context(), "a", "s", nil)
	isFull(t, err)
	d.goesOn(t, v)
	free()
	d.snap(t, v, "s")
	other := d.worker(t, model.Create{Name: "other", Image: "other"})
	before := append(h.files(), h.stored()...)
	fill(model.MiB)
	_, err = d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "other", Force: true}, nil)
	isFull(t, err)
	forked, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{}, nil)
	if err != nil || forked.Children[0].VM != nil || forked.Children[0].Kind != string(fault.Unavailable) {
		t.Errorf("%+v, %v", forked, err)
	}
	if after := append(h.files(), h.stored()...); !slices.Equal(before, after) || d.state(t, "other") != model.Running || h.worked(other) != "work of other" {
		t.Errorf("before %v, after %v", before, after)
	}
	free()
	if got := d.restore(t, "s", model.Restore{Into: "other", Force: true})[0]; h.worked(got) != "work of a" {
		t.Errorf("it has %q", h.worked(got))
	}
}
