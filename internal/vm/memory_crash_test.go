package vm

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
)

// TestKilledWhileMemoryIsGivenUp kills the daemon after a kill has removed a suspended VM's memory,
// and before the record says so. As if the memory had been moved away, only a kill gives it up.
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
	equal(t, "the state after a crash", d.state(t, v.ID), model.Suspended)
	got, _ := d.Get("a")
	wantLastError(t, got, "memory")
	wantKind(t, "a start without the memory", second(d.Start(t.Context(), "a", model.Start{}, nil)), fault.Damaged)
	if _, err := d.Kill(t.Context(), v.ID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
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

// TestMemoryBesideVMs leaves memory beside VMs, which nobody can read. It is removed if the VM's
// machine is there, as after a crash at the end of a resume. Otherwise only a person gives it up.
func TestMemoryBesideVMs(t *testing.T) {
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
		want, memory := model.State(v.Spec.Name), h.layout.VM(v.ID).Suspended()
		if !want.Live() {
			d.wantState(t, v.ID, model.Suspended)
			wantKind(t, "a start", second(d.Start(t.Context(), v.ID, model.Start{}, nil)), fault.Damaged)
			claim(t, disk.MayExist(memory), "the memory of the %s VM was given up", want)
			if _, err := d.Kill(t.Context(), v.ID, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
			want = model.Stopped
		}
		claim(t, !disk.MayExist(memory), "the outdated memory of the %s VM is still there", want)
		d.wantState(t, v.ID, want)
	}
	d.resume(t, kept)
	d.deleteAll(t)
}
