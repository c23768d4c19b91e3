package vm

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"banger/internal/disk"
	"banger/internal/model"
)

// TestKilledWhileMemoryIsGivenUp kills the daemon after a kill has removed a suspended VM's memory,
// and before the record says so. The VM is stopped then, and can be started.
func TestKilledWhileMemoryIsGivenUp(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	d = d.killedIn("store stopped", func(ctx context.Context) {
		d.Kill(ctx, v.ID, syscall.SIGKILL)
	})
	if disk.MayExist(h.layout.VM(v.ID).Suspended()) {
		t.Error("the memory is still there")
	}
	equal(t, "the state after a crash", d.state(t, v.ID), model.Stopped)
	d.start(t, v.ID)
	d.deleteAll(t)
}

// deleteAll deletes all VMs, so that no machine outlives the test.
func (d *daemon) deleteAll(t *testing.T) {
	t.Helper()
	for _, v := range d.List() {
		if err := d.Delete(t.Context(), v.ID, true, nil); err != nil {
			t.Error(err)
		}
	}
}

// TestOutdatedMemoryIsRemoved leaves memory beside VMs that do not need it, as a crash after a
// resume does. The next daemon removes it, and nothing else.
func TestOutdatedMemoryIsRemoved(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	var all []model.VM
	for _, state := range []model.State{model.Running, model.Paused, model.Stopped, model.Failed} {
		v := d.worker(t, model.Create{Name: string(state)})
		if state != model.Running {
			d.bringTo(t, v, state)
		}
		memory := h.layout.VM(v.ID).Suspended()
		if err := os.Mkdir(memory, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(memory, "memory"), []byte("outdated"), 0o600); err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	kept := d.worker(t, model.Create{Name: "suspended"})
	d.suspend(t, kept)
	d.die()
	d = h.daemon()
	for _, v := range all {
		if disk.MayExist(h.layout.VM(v.ID).Suspended()) {
			t.Errorf("the outdated memory of the %s VM is still there", v.Spec.Name)
		}
		equal(t, "the state of the VM "+v.Spec.Name, string(d.state(t, v.ID)), v.Spec.Name)
	}
	d.resume(t, kept)
	d.deleteAll(t)
}
