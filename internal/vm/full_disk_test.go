package vm

import (
	"cmp"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/testkit"
)

// onFullDisk is an operation on the VM "a", which a full disk may refuse.
type onFullDisk struct {
	prepare func(*testing.T, *daemon) // with room
	do      func(*testing.T, *daemon) error
	ends    bool // the VM need not exist afterwards
}

func stopped(t *testing.T, d *daemon) {
	d.bringTo(t, d.worker(t, model.Create{Name: "a"}), model.Stopped)
}
func running(t *testing.T, d *daemon)   { d.worker(t, model.Create{Name: "a"}) }
func paused(t *testing.T, d *daemon)    { d.pause(t, d.worker(t, model.Create{Name: "a"})) }
func suspended(t *testing.T, d *daemon) { d.suspend(t, d.worker(t, model.Create{Name: "a"})) }

func withSnapshot(t *testing.T, d *daemon) { d.snap(t, d.worker(t, model.Create{Name: "a"}), "s") }

var onFullDisks = map[string]onFullDisk{
	"create": {nil, func(t *testing.T, d *daemon) error {
		return second(d.Create(t.Context(), model.Create{Name: "a"}, nil))
	}, false},
	"launch": {nil, func(t *testing.T, d *daemon) error {
		return second(d.Launch(t.Context(), model.Create{Name: "a"}, func(model.VM) {}, nil))
	}, false},
	"first start": {func(t *testing.T, d *daemon) { d.create(t, model.Create{Name: "a"}) }, startA, false},
	"start":       {stopped, startA, false},
	"restart": {running, func(t *testing.T, d *daemon) error {
		return second(d.Restart(t.Context(), "a", ptr(time.Duration(0)), nil))
	}, false},
	"stop": {running, func(t *testing.T, d *daemon) error {
		return second(d.Stop(t.Context(), "a", ptr(time.Duration(0)), nil))
	}, false},
	"set": {stopped, func(t *testing.T, d *daemon) error {
		return second(d.Set(t.Context(), "a", model.Change{Memory: ptr(256 * model.MiB)}))
	}, false},
	"set disk": {stopped, func(t *testing.T, d *daemon) error {
		return second(d.Set(t.Context(), "a", model.Change{DiskSize: ptr(128 * model.MiB)}))
	}, false},
	"rename": {running, func(t *testing.T, d *daemon) error {
		return second(d.Rename(t.Context(), "a", "b"))
	}, false},
	"snapshot": {running, func(t *testing.T, d *daemon) error {
		return second(d.CreateSnapshot(t.Context(), "a", "s", nil))
	}, false},
	"restore into": {withSnapshot, func(t *testing.T, d *daemon) error {
		return second(d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a", Force: true}, nil))
	}, false},
	"fork": {running, func(t *testing.T, d *daemon) error {
		forked, err := d.Fork(t.Context(), "a", model.Fork{Name: "child"}, nil)
		for _, c := range forked.Children {
			claim(t, c.VM != nil || c.Hint != "", "the child failed without a hint: %s", c.Error)
		}
		return err
	}, false},
	"pause":   {running, func(t *testing.T, d *daemon) error { return second(d.Pause(t.Context(), "a", nil)) }, false},
	"resume":  {paused, func(t *testing.T, d *daemon) error { return second(d.Resume(t.Context(), "a", nil)) }, false},
	"suspend": {running, func(t *testing.T, d *daemon) error { return second(d.Suspend(t.Context(), "a", nil)) }, false},
	"wake":    {suspended, func(t *testing.T, d *daemon) error { return second(d.Resume(t.Context(), "a", nil)) }, false},
	"delete":  {stopped, func(t *testing.T, d *daemon) error { return d.Delete(t.Context(), "a", false, nil) }, true},
	"kill and delete": {running, func(t *testing.T, d *daemon) error {
		return d.Delete(t.Context(), "a", true, nil)
	}, true},
	"delete a snapshot": {withSnapshot, func(t *testing.T, d *daemon) error {
		return second(d.Library().Delete(t.Context(), "s"))
	}, false},
}

func startA(t *testing.T, d *daemon) error {
	return second(d.Start(t.Context(), "a", model.Start{}, nil))
}

// TestFullDisk does each operation with ever more room on the disk until it succeeds. Before, it
// says that the disk is full. With room again, nothing is lost or half-made. In every second round
// the daemon is killed before that. BANGER_STRESS_DISK makes the steps finer.
func TestFullDisk(t *testing.T) {
	fine := testkit.Number(t, "BANGER_STRESS_DISK", 1)
	for name, op := range onFullDisks {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			home, err := os.MkdirTemp("", "b")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(home) })
			h.layout = paths.At(home)
			h.homes = true
			fill, free := h.smallFilesystem(home, 96*model.MiB)
			d := h.daemon()
			witness := d.worker(t, model.Create{Name: "witness"})
			before := append(h.files(), h.stored()...)
			succeeded := 0
			for round, leave := 0, 0; succeeded < 3 && leave < 8192; round++ {
				d = d.withRoomFor(t, op, model.Bytes(leave)*model.KiB, round%2 == 1, fill, free, &succeeded)
				d.wantContinues(t, witness)
				h.wantAllFiles(t, before)
				h.wantMachines(t, 1)
				if t.Failed() {
					t.Fatalf("with %d KiB left, in round %d", leave, round)
				}
				leave += max(4, leave/(4*fine)/4*4)
			}
			claim(t, succeeded > 0, "it never succeeded")
		})
	}
}

// named returns the VM with that very name, or the zero VM. Get would also take "a" for an id.
func (d *daemon) named(name string) model.VM {
	for _, v := range d.List() {
		if v.Spec.Name == name {
			return v
		}
	}
	return model.VM{}
}

// withRoomFor is one round of TestFullDisk. It returns the daemon, which may be a new one.
func (d *daemon) withRoomFor(
	t *testing.T, op onFullDisk, leave model.Bytes, dies bool, fill func(model.Bytes), free func(), succeeded *int,
) *daemon {
	t.Helper()
	if op.prepare != nil {
		op.prepare(t, d)
	}
	was := d.named("a")
	fill(leave)
	err := op.do(t, d)
	if err != nil {
		wantDiskFull(t, err)
	} else {
		*succeeded++
	}
	if dies {
		d.die()
	}
	free()
	if dies {
		d = d.host.daemon()
	}
	d.retryCleanups(t.Context())
	ref := cmp.Or(was.ID, d.named("a").ID, "none") // it may have another name by now
	if v, getErr := d.Get(ref); getErr == nil {
		claim(t, !v.State.Between(), "with room again, %s is still %s", ref, v.State)
		d.start(t, ref)
		if was.Boot != nil {
			d.wantOnDisk(t, v, "work of a")
		}
	} else if was.ID != "" && !op.ends {
		t.Errorf("the VM is lost: %v", getErr)
	}
	for _, v := range slices.Clone(d.List()) {
		if v.Spec.Name != "witness" {
			if err := d.Delete(t.Context(), v.ID, true, nil); err != nil {
				t.Error(err)
			}
		}
	}
	list, err := d.Library().List(t.Context())
	for _, s := range list {
		err = errors.Join(err, second(d.Library().Delete(t.Context(), s.ID)))
	}
	if err != nil {
		t.Error(err)
	}
	return d
}
