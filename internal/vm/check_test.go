package vm

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

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

// originName is the name of the VM, snapshot or image that a VM started from; "" if it booted.
func originName(v model.VM) string {
	if originOf(v) == "" {
		return ""
	}
	return v.Boot.Origin.Name
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

// wantSize checks the size of a file.
func wantSize(t *testing.T, path string, size model.Bytes) {
	t.Helper()
	if info, err := os.Stat(path); err != nil {
		t.Error(err)
	} else if info.Size() != int64(size) {
		t.Errorf("%s has %d bytes, not %d", path, info.Size(), size)
	}
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
