package vm

import (
	"slices"
	"strings"
	"testing"

	"banger/internal/model"
)

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
