package vm

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// Checks. Each reports the one claim that does not hold.

// claim reports a claim that does not hold. The message states what must hold and what was found.
func claim(t *testing.T, holds bool, format string, args ...any) {
	t.Helper()
	if !holds {
		t.Errorf(format, args...)
	}
}

// equal reports a value that is not the wanted one.
func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, not %v", what, got, want)
	}
}

// equalLists reports a list that is not the wanted one.
func equalLists(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s are %q, not %q", what, got, want)
	}
}

// wantKind reports an error that is not of the wanted kind. The kind "" stands for no error.
func wantKind(t *testing.T, what string, err error, kind fault.Kind) {
	t.Helper()
	if fault.KindOf(err) != kind {
		t.Errorf("%s returned an error of kind %q, not %q: %v", what, fault.KindOf(err), kind, err)
	}
}

// wantHint reports an error whose hint does not contain a text.
func wantHint(t *testing.T, what string, err error, text string) {
	t.Helper()
	if hint := fault.HintOf(err); hint == "" || !strings.Contains(hint, text) {
		t.Errorf("%s returned the hint %q, which must contain %q", what, hint, text)
	}
}

// wantDiskFull checks that an error says that the disk is full, and that its hint says what to do.
func wantDiskFull(t *testing.T, err error) {
	t.Helper()
	wantKind(t, "the operation on a full disk", err, fault.Unavailable)
	if hint := strings.ToLower(fault.HintOf(err)); !strings.Contains(hint, "free some space") {
		t.Errorf("the hint of %v is %q: it must say to free some space", err, hint)
	}
}

// wantEnds checks an operation that succeeds and leaves the VM in a state.
func wantEnds(t *testing.T, what string, state model.State) func(model.VM, error) {
	t.Helper()
	return func(v model.VM, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s failed: %v", what, err)
		}
		equal(t, "the VM after "+what, v.State, state)
	}
}

// wantFails checks an operation that fails with an error and leaves the VM in a state.
func wantFails(t *testing.T, what string, target error, state model.State) func(model.VM, error) {
	t.Helper()
	return func(v model.VM, err error) {
		t.Helper()
		if !errors.Is(err, target) {
			t.Errorf("%s returned %v, not %v", what, err, target)
		}
		equal(t, "the VM after "+what, v.State, state)
	}
}

// wantSkipped checks that an operation reported one step, which it skipped.
func wantSkipped(t *testing.T, reported []step.Event) {
	t.Helper()
	if len(reported) != 1 || reported[0].Phase != step.Skipped {
		t.Errorf("reported are %v: one skipped step is wanted", reported)
	}
}

// wantPoweredOff checks that the last step of a stop was that the guest powered off.
func wantPoweredOff(t *testing.T, reported []step.Event) {
	t.Helper()
	if len(reported) == 0 {
		t.Error("the stop reported no step")
		return
	}
	last := reported[len(reported)-1]
	equal(t, "the last step of the stop", last.Step, "power-off")
	equal(t, "the phase of the last step", last.Phase, step.Done)
}

// wantPruned checks that so many templates were removed.
func wantPruned(t *testing.T, n int) func(model.Pruned, error) {
	t.Helper()
	return func(pruned model.Pruned, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("the prune failed: %v", err)
		}
		if len(pruned.Removed) != n {
			t.Errorf("the prune removed %v: %d templates are wanted", pruned.Removed, n)
		}
	}
}

// wantLastError checks that a VM's record shows an error that contains a text.
func wantLastError(t *testing.T, v model.VM, text string) {
	t.Helper()
	if v.LastError == nil {
		t.Errorf("the record of %s shows no error", v.Spec.Name)
	} else if !strings.Contains(v.LastError.Msg, text) {
		t.Errorf("the record of %s shows the error %q, which must contain %q", v.Spec.Name, v.LastError.Msg, text)
	}
}

// wantLastHint checks that the error in a VM's record has a hint.
func wantLastHint(t *testing.T, v model.VM) {
	t.Helper()
	if v.LastError == nil || v.LastError.Hint == "" {
		t.Errorf("the record of %s shows no hint: %+v", v.Spec.Name, v.LastError)
	}
}

// wantNoLastError checks that a VM's record shows no error.
func wantNoLastError(t *testing.T, v model.VM) {
	t.Helper()
	if v.LastError != nil {
		t.Errorf("the record of %s shows the error %+v", v.Spec.Name, v.LastError)
	}
}

// wantNoRuntime checks that a VM's record names no machine.
func wantNoRuntime(t *testing.T, v model.VM) {
	t.Helper()
	if v.Runtime != nil {
		t.Errorf("the record of %s, which is %s, still names a machine: %+v", v.Spec.Name, v.State, v.Runtime)
	}
}

// originOf is the kind of origin that a VM's start had. A boot has none: "".
func originOf(v model.VM) model.OriginKind {
	if v.Boot == nil || v.Boot.Origin == nil {
		return ""
	}
	return v.Boot.Origin.Kind
}

// wantOrigin checks what a VM started from. Only a VM without an origin has booted cold.
func wantOrigin(t *testing.T, v model.VM, kind model.OriginKind) {
	t.Helper()
	if got := originOf(v); got != kind {
		t.Errorf("%s started from %q, not from %q", v.Spec.Name, got, kind)
	}
	if v.Boot == nil {
		t.Errorf("the record of %s does not describe its start", v.Spec.Name)
	} else if v.Boot.Cold != (kind == "") {
		t.Errorf("%s, which started from %q, is recorded as a cold boot: %v", v.Spec.Name, kind, v.Boot.Cold)
	}
}

// wantOriginOf checks which VM, snapshot or template a VM started from.
func wantOriginOf(t *testing.T, v model.VM, kind model.OriginKind, id string) {
	t.Helper()
	wantOrigin(t, v, kind)
	if v.Boot != nil && v.Boot.Origin != nil && v.Boot.Origin.Of != id {
		t.Errorf("%s started from the %s %s, not from %s", v.Spec.Name, kind, v.Boot.Origin.Of, id)
	}
}

// wantNoChildren checks a fork or restore of which each child failed with an error of a kind.
func wantNoChildren(t *testing.T, forked model.Forked, err error, kind fault.Kind) {
	t.Helper()
	if err != nil {
		t.Errorf("the whole operation failed, not only its children: %v", err)
	}
	if len(forked.Children) == 0 {
		t.Error("no child is reported")
	}
	for _, c := range forked.Children {
		if c.VM != nil {
			t.Errorf("the child %s has started", c.Name)
		}
		if c.Kind != string(kind) {
			t.Errorf("the child %s failed with an error of kind %q, not %q: %s", c.Name, c.Kind, kind, c.Error)
		}
	}
}

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

// wantMachines checks how many machines run.
func (h *host) wantMachines(t *testing.T, n int) {
	t.Helper()
	if got := h.running(); got != n {
		t.Errorf("%d machines run, not %d", got, n)
	}
}

// wantFiles checks which files of VMs there are.
func (h *host) wantFiles(t *testing.T, want []string) {
	t.Helper()
	if got := h.files(); !slices.Equal(got, want) {
		t.Errorf("the VMs have the files %q, not %q", got, want)
	}
}

// wantAllFiles checks which files of VMs, and which snapshots and templates there are.
func (h *host) wantAllFiles(t *testing.T, want []string) {
	t.Helper()
	if got := append(h.files(), h.stored()...); !slices.Equal(got, want) {
		t.Errorf("the VMs, snapshots and templates have the files %q, not %q", got, want)
	}
}

// wantNothingLeft checks that there is neither a file of a VM nor a machine.
func (h *host) wantNothingLeft(t *testing.T) {
	t.Helper()
	h.wantFiles(t, nil)
	h.wantMachines(t, 0)
}

// wantStored checks how many snapshots and templates there are, finished or not.
func (h *host) wantStored(t *testing.T, n int) {
	t.Helper()
	if got := h.stored(); len(got) != n {
		t.Errorf("%d snapshots and templates are stored, not %d: %q", len(got), n, got)
	}
}

// wantNoneUnfinished checks that no snapshot or template is left unfinished.
func (h *host) wantNoneUnfinished(t *testing.T) {
	t.Helper()
	for _, path := range h.stored() {
		if strings.Contains(path, "/.") {
			t.Errorf("%s is left unfinished", path)
		}
	}
}

// wantSize checks the size of a file.
func wantSize(t *testing.T, path string, size model.Bytes) {
	t.Helper()
	if info, err := os.Stat(path); err != nil {
		t.Error(err)
	} else if info.Size() != int64(size) {
		t.Errorf("%s has %d bytes, not %d", path, info.Size(), size)
	}
}

// wantCalls checks how often a hook was called.
func (h *host) wantCalls(t *testing.T, hook string, n int) {
	t.Helper()
	if got := h.called(hook); got != n {
		t.Errorf("the hook %q was called %d times, not %d", hook, got, n)
	}
}

// wantOnDisk checks what the guest of a VM has on its system disk.
func (h *host) wantOnDisk(t *testing.T, v model.VM, text string) {
	t.Helper()
	if got := h.onDisk(v); got != text {
		t.Errorf("%s has %q on its system disk, not %q", v.Spec.Name, got, text)
	}
}

// wantWork checks what the guest of a VM has both in its memory and on its system disk.
func (h *host) wantWork(t *testing.T, v model.VM, text string) {
	t.Helper()
	if got := h.workOf(v); got != text {
		t.Errorf("%s has %q in its memory and on its disk, not %q", v.Spec.Name, got, text)
	}
}

// wantBooted checks that a VM has booted from a disk: its memory has nothing of an earlier run.
func (h *host) wantBooted(t *testing.T, v model.VM, onDisk string) {
	t.Helper()
	if got := h.memoryOf(v).Data; got != "" {
		t.Errorf("%s has not booted: it still has %q in its memory", v.Spec.Name, got)
	}
	h.wantOnDisk(t, v, onDisk)
}

// wantGuest checks a guest's identity, and how many identities it had before.
func (h *host) wantGuest(t *testing.T, v model.VM, name string, forks int) {
	t.Helper()
	g := h.memoryOf(v)
	equal(t, "the guest's host name", g.Name, name)
	equal(t, "the number of identities before that of "+name, g.Forks, forks)
	claim(t, !g.Frozen, "the processes of %s are frozen", name)
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

// wantMadeFrom checks that a VM's record names the snapshot that it was made from.
func wantMadeFrom(t *testing.T, v model.VM, s model.Snapshot) {
	t.Helper()
	if v.Parent == nil {
		t.Errorf("the record of %s names no snapshot", v.Spec.Name)
		return
	}
	equal(t, "the snapshot of "+v.Spec.Name, v.Parent.Snapshot, s.ID)
	equal(t, "the id of the VM in the snapshot of "+v.Spec.Name, v.Parent.VM, s.VMID)
	equal(t, "the name of the VM in the snapshot of "+v.Spec.Name, v.Parent.Name, s.VM)
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
