package vm

import (
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
)

// goesOn looks that a VM runs with all that it has done, and that nothing is left of a pause or of anything that was to be saved.
func (d *daemon) goesOn(t *testing.T, v model.VM) {
	t.Helper()
	if got := d.state(t, v.ID); got != model.Running || d.computer.Halted(v.ID) || d.look(v).Frozen {
		t.Errorf("it is %s; halted: %v, its processes held: %v", got, d.computer.Halted(v.ID), d.look(v).Frozen)
	}
	if got := d.worked(v); got != "work of "+v.Spec.Name {
		t.Errorf("it has %q", got)
	}
	d.nothingSaved(t)
}

// nothingSaved looks that there is no suspended VM's memory, and nothing unfinished.
func (d *daemon) nothingSaved(t *testing.T) {
	t.Helper()
	for _, path := range append(d.files(), d.stored()...) {
		if name := filepath.Base(path); name == "suspended" || strings.HasPrefix(name, disk.TempPrefix) {
			t.Errorf("left: %s", path)
		}
	}
}

// isFork looks that a VM goes on from where another one was, as itself.
func (d *daemon) isFork(t *testing.T, child, parent model.VM, work string) {
	t.Helper()
	if got := d.state(t, child.ID); got != model.Running || d.computer.Halted(child.ID) {
		t.Errorf("%s is %s; halted: %v", child.Spec.Name, got, d.computer.Halted(child.ID))
	}
	if g := d.look(child); g.Frozen || g.Forks == 0 || g.Name != child.Spec.Name {
		t.Errorf("the guest of %s: %+v", child.Spec.Name, g)
	}
	if got := d.worked(child); got != work {
		t.Errorf("%s has %q, not %q", child.Spec.Name, got, work)
	}
	if p := child.Parent; p == nil || p.VM != parent.ID || p.Name != parent.Spec.Name {
		t.Errorf("the parent of %s: %+v", child.Spec.Name, p)
	}
}

// isOf looks that a VM was made of a snapshot.
func isOf(t *testing.T, v model.VM, s model.Snapshot) {
	t.Helper()
	if p := v.Parent; p == nil || p.Snapshot != s.ID || p.VM != s.VMID || p.Name != s.VM {
		t.Errorf("the parent of %s: %+v", v.Spec.Name, p)
	}
}

// cannotGoOn looks that a VM whose processes cannot be let go on is paused, and goes on when they can.
func (d *daemon) cannotGoOn(t *testing.T, v model.VM) {
	t.Helper()
	got, err := d.Get(v.ID)
	if err != nil || got.State != model.Paused || got.LastError == nil || !strings.Contains(got.LastError.Msg, "boom") || d.host.running() != 1 {
		t.Errorf("%+v, %+v, %v, %d machines", got, got.LastError, err, d.host.running())
	}
	d.host.failing("thaw", nil)
	d.resume(t, v)
	d.goesOn(t, v)
	if got, _ := d.Get(v.ID); got.LastError != nil {
		t.Errorf("it runs, and shows %+v", got.LastError)
	}
}

// goesAway looks that a VM is shown as being deleted, and why it is still there.
func (d *daemon) goesAway(t *testing.T, ref string) {
	t.Helper()
	v, err := d.Get(ref)
	if err != nil {
		t.Error(err)
	} else if v.State != model.Deleting || v.LastError == nil || !strings.Contains(v.LastError.Msg, "boom") || v.LastError.Hint == "" {
		t.Errorf("it is %s, %+v", v.State, v.LastError)
	}
}

// isFull looks that an error says that the disk is.
func isFull(t *testing.T, err error) {
	t.Helper()
	if fault.KindOf(err) != fault.Unavailable || !strings.Contains(strings.ToLower(fault.HintOf(err)), "free some space") {
		t.Errorf("got %v, hint %q", err, fault.HintOf(err))
	}
}

// from is the kind of what a VM went on from; "" for a boot.
func from(v model.VM) model.OriginKind {
	if v.Boot == nil || v.Boot.Origin == nil {
		return ""
	}
	return v.Boot.Origin.Kind
}
