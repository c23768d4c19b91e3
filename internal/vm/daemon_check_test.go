package vm

import (
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/disk"
	"banger/internal/model"
)

// wantState checks a VM's recorded state.
func (d *daemon) wantState(t *testing.T, ref string, state model.State) {
	t.Helper()
	if got := d.state(t, ref); got != state {
		t.Errorf("the VM %s is %s, not %s", ref, got, state)
	}
}

// wantVMs checks how many VMs there are.
func (d *daemon) wantVMs(t *testing.T, n int) {
	t.Helper()
	if vms := d.List(); len(vms) != n {
		t.Errorf("there are %d VMs, not %d: %v", len(vms), n, vms)
	}
}

// wantPaused checks that a VM is recorded as paused, and that nothing in it runs.
func (d *daemon) wantPaused(t *testing.T, v model.VM) {
	t.Helper()
	d.wantState(t, v.ID, model.Paused)
	claim(t, d.computer.Halted(v.ID), "the machine of the paused VM %s is not halted", v.Spec.Name)
	claim(t, d.memoryOf(v).Frozen, "the processes of the paused VM %s are not frozen", v.Spec.Name)
}

// wantRunning checks that a VM is recorded as running, and that its machine and processes run.
func (d *daemon) wantRunning(t *testing.T, v model.VM) {
	t.Helper()
	d.wantState(t, v.ID, model.Running)
	claim(t, !d.computer.Halted(v.ID), "the machine of the running VM %s is halted", v.Spec.Name)
	claim(t, !d.memoryOf(v).Frozen, "the processes of the running VM %s are frozen", v.Spec.Name)
}

// wantContinues checks that a VM runs with all its work, and that nothing is left of a saved
// state.
func (d *daemon) wantContinues(t *testing.T, v model.VM) {
	t.Helper()
	d.wantRunning(t, v)
	d.wantWork(t, v, "work of "+v.Spec.Name)
	d.wantNothingSaved(t)
}

// wantNothingSaved checks that no VM has saved memory, and that no file is unfinished.
func (d *daemon) wantNothingSaved(t *testing.T) {
	t.Helper()
	for _, path := range append(d.files(), d.stored()...) {
		if name := filepath.Base(path); name == "suspended" || strings.HasPrefix(name, disk.TempPrefix) {
			t.Errorf("saved or unfinished state is left: %s", path)
		}
	}
}

// wantFork checks that a VM runs with the state of its parent and an identity of its own.
func (d *daemon) wantFork(t *testing.T, child, parent model.VM, work string) {
	t.Helper()
	d.wantRunning(t, child)
	g := d.memoryOf(child)
	equal(t, "the host name of the fork "+child.Spec.Name, g.Name, child.Spec.Name)
	claim(t, g.Forks > 0, "the guest of %s has got no identity of its own", child.Spec.Name)
	d.wantWork(t, child, work)
	if child.Parent == nil {
		t.Errorf("the record of %s names no parent", child.Spec.Name)
		return
	}
	equal(t, "the id of the parent of "+child.Spec.Name, child.Parent.VM, parent.ID)
	equal(t, "the name of the parent of "+child.Spec.Name, child.Parent.Name, parent.Spec.Name)
}

// wantPausedUntilThawed checks that a VM that could not be thawed is paused, and that it can be
// resumed when the thaw works.
func (d *daemon) wantPausedUntilThawed(t *testing.T, v model.VM) {
	t.Helper()
	got, err := d.Get(v.ID)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "a VM that could not be thawed", got.State, model.Paused)
	wantLastError(t, got, "boom")
	d.wantMachines(t, 1)
	d.failing("thaw", nil)
	d.resume(t, v)
	d.wantContinues(t, v)
	got, _ = d.Get(v.ID)
	wantNoLastError(t, got)
}

// wantDeletionPending checks that a VM is shown as being deleted, with the reason why it still
// exists.
func (d *daemon) wantDeletionPending(t *testing.T, ref string) {
	t.Helper()
	v, err := d.Get(ref)
	if err != nil {
		t.Error(err)
		return
	}
	equal(t, "a VM that could not be deleted", v.State, model.Deleting)
	wantLastError(t, v, "boom")
	wantLastHint(t, v)
}

// wantTemplates checks how many universal templates there are, and the images of the others.
func (d *daemon) wantTemplates(t *testing.T, universal int, images ...string) {
	t.Helper()
	u, i := d.templateKinds(t)
	equal(t, "the number of universal templates", u, universal)
	equalLists(t, "the images with a template", i, images)
}

// wantWanted checks which templates are to be built, by their kinds' first letters.
func (d *daemon) wantWanted(t *testing.T, want ...string) {
	t.Helper()
	equalLists(t, "the templates to be built", d.wanted(), want)
}

// wantPostponed checks how many failed templates are not to be built for a while.
func (d *daemon) wantPostponed(t *testing.T, n int) {
	t.Helper()
	equal(t, "the number of postponed templates", d.postponed(), n)
}

// wantStandbys checks how many machines are on standby.
func (d *daemon) wantStandbys(t *testing.T, n int) {
	t.Helper()
	equal(t, "the number of machines on standby", d.standbys(t), n)
}
