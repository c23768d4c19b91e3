package vm

import (
	"context"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
	"banger/internal/vmm/fake"
)

// resumeBehind lets the machine of a paused VM continue, and perhaps thaws its guest, although the
// record says that the VM is paused. A resume whose daemon was killed has left that.
func (h *host) resumeBehind(v model.VM, thawed bool) {
	h.t.Helper()
	in, err := fake.New(h.computer, fake.Options{}).Find(h.t.Context(), h.layout.VM(v.ID).Run)
	if err == nil {
		err = in.(vmm.Pauser).Resume(h.t.Context())
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.inGuest(v.ID, func(g *guest) { g.Frozen = !thawed })
}

// TestPausedVMRuns starts a daemon beside a VM that is recorded as paused and whose machine runs.
// If its guest runs, too, the VM runs. If the guest is frozen, the machine is halted again. If the
// guest does not answer, nothing is lost.
func TestPausedVMRuns(t *testing.T) {
	t.Parallel()
	for name, thawed := range map[string]bool{"frozen": false, "thawed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.pause(t, v)
			d.die()
			h.resumeBehind(v, thawed)
			h.failing("do agent", errBoom)
			d = h.daemon()
			d.wantState(t, "a", model.Paused)
			h.wantMachines(t, 1)
			d.die()
			h.failing("do agent", nil)
			d = h.daemon()
			if thawed {
				d.wantContinues(t, v)
				return
			}
			d.wantPaused(t, v)
			d.resume(t, v)
			d.wantContinues(t, v)
		})
	}
}

// TestPausedVMRunsWhenItIsSaved saves a VM that is recorded as paused and whose guest runs. Its
// processes are frozen first. If they do not freeze, the VM is not saved, and its machine stays.
func TestPausedVMRunsWhenItIsSaved(t *testing.T) {
	t.Parallel()
	for name, save := range map[string]func(context.Context, *daemon) error{
		"suspend": func(ctx context.Context, d *daemon) error { return second(d.Suspend(ctx, "a", nil)) },
		"fork": func(ctx context.Context, d *daemon) error {
			return second(d.Fork(ctx, "a", model.Fork{Name: "f"}, nil))
		},
		"snapshot": func(ctx context.Context, d *daemon) error { return second(d.CreateSnapshot(ctx, "a", "s", nil)) },
		"pause":    func(ctx context.Context, d *daemon) error { return second(d.Pause(ctx, "a", nil)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.pause(t, v)
			h.resumeBehind(v, true)
			h.failing("freeze", errBoom)
			if err := save(t.Context(), d); err == nil {
				t.Error("a guest that does not freeze was saved")
			}
			h.wantMachines(t, 1)
			h.wantStored(t, 0)
			h.failing("freeze", nil)
			if name == "pause" { // the one that failed has made it run
				d.wantContinues(t, v)
			} else {
				d.wantState(t, "a", model.Paused)
			}
			if err := save(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			switch name {
			case "suspend":
				d.wantState(t, "a", model.Suspended)
			case "fork":
				f, err := d.Get("f")
				if err != nil {
					t.Fatal(err)
				}
				d.wantFork(t, f, v, "work of a")
				d.wantPaused(t, v)
			case "snapshot":
				d.wantFork(t, d.restore(t, "s", model.Restore{Fork: model.Fork{Name: "r"}})[0], v, "work of a")
				d.wantPaused(t, v)
			default:
				d.wantPaused(t, v)
			}
			d.resume(t, v)
			d.wantContinues(t, v)
		})
	}
}

// TestMemoryThatWasNotFrozen uses memory whose guest was not frozen when it was saved, as an
// earlier version did. The VM itself resumes from it. A restore of it fails, and names the way out.
func TestMemoryThatWasNotFrozen(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.pause(t, v)
	h.inGuest(v.ID, func(g *guest) { g.Frozen = false }) // what the daemon cannot see
	s := d.snap(t, v, "s")
	forked, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Fork: model.Fork{Name: "r"}}, nil)
	if err != nil || len(forked.Children) != 1 {
		t.Fatalf("the restore made %+v: %v", forked, err)
	}
	equal(t, "the kind of the error", forked.Children[0].Kind, string(fault.Damaged))
	equal(t, "the hint", forked.Children[0].Hint, "`banger snapshot restore --disks-only "+s.ID+"` restores its disks")
	d.suspend(t, v)
	d.resume(t, v)
	d.wantContinues(t, v)
}
