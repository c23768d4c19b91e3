package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
)

// unmount makes a VM's directory a link to one on a disk that is not mounted until mount is called.
func (h *host) unmount(t *testing.T, v model.VM) (mount func()) {
	t.Helper()
	link, mounted := h.layout.VM(v.ID).Dir, filepath.Join(t.TempDir(), v.ID)
	damage(t, errors.Join(os.Rename(link, mounted+".away"), os.Symlink(mounted, link)))
	return func() {
		t.Helper()
		damage(t, os.Rename(mounted+".away", mounted))
	}
}

// changeStored changes the stored record of the only VM, as an interrupted operation leaves it.
func (d *daemon) changeStored(t *testing.T, change func(*model.VM)) {
	t.Helper()
	vms, err := d.store.VMs(t.Context())
	damage(t, err)
	change(&vms[0])
	damage(t, d.store.PutVM(t.Context(), vms[0]))
}

// remounted are commands for the suspended VM "a", and what it is then.
var remounted = map[string]struct {
	kind fault.Kind // of the error; "" for none
	want model.State
	do   func(context.Context, *daemon) error
}{
	"start":   {"", model.Running, func(ctx context.Context, d *daemon) error { return second(d.Start(ctx, "a", model.Start{}, nil)) }},
	"resume":  {"", model.Running, func(ctx context.Context, d *daemon) error { return second(d.Resume(ctx, "a", nil)) }},
	"stop":    {"", model.Stopped, func(ctx context.Context, d *daemon) error { return second(d.Stop(ctx, "a", nil, nil)) }},
	"restart": {"", model.Running, func(ctx context.Context, d *daemon) error { return second(d.Restart(ctx, "a", nil, nil)) }},
	"suspend": {"", model.Suspended, func(ctx context.Context, d *daemon) error { return second(d.Suspend(ctx, "a", nil)) }},
	"fork":    {"", model.Suspended, func(ctx context.Context, d *daemon) error { return second(d.Fork(ctx, "a", model.Fork{}, nil)) }},
	"snapshot": {"", model.Suspended, func(ctx context.Context, d *daemon) error {
		return second(d.CreateSnapshot(ctx, "a", "s", nil))
	}},
	"rename": {"", model.Suspended, func(ctx context.Context, d *daemon) error { return second(d.Rename(ctx, "a", "b")) }},
	"set": {fault.WrongState, model.Suspended, func(ctx context.Context, d *daemon) error {
		return second(d.Set(ctx, "a", model.Change{Memory: ptr(512 * model.MiB)}))
	}},
	"restore": {fault.WrongState, model.Suspended, func(ctx context.Context, d *daemon) error {
		return second(d.RestoreSnapshot(ctx, "older", model.Restore{Into: "a"}, nil))
	}},
	"delete": {fault.WrongState, model.Suspended, func(ctx context.Context, d *daemon) error { return d.Delete(ctx, "a", false, nil) }},
	"kill":   {fault.WrongState, model.Broken, func(ctx context.Context, d *daemon) error { return second(d.Kill(ctx, "a", syscall.SIGKILL)) }},
	"exec": {fault.WrongState, model.Suspended, func(ctx context.Context, d *daemon) error {
		_, _, _, err := d.Use(ctx, "a")
		return err
	}},
}

// TestRemounted mounts the disk of a suspended VM after the daemon's start. Whatever command comes
// first, the VM is suspended for it. Before, each command fails and changes nothing.
func TestRemounted(t *testing.T) {
	for name, c := range remounted {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.snap(t, v, "older")
			d.suspend(t, v)
			d.die()
			mount := h.unmount(t, v)
			d = h.daemon()
			d.wantState(t, v.ID, model.Broken)
			if err := c.do(t.Context(), d); err == nil {
				t.Error("the command succeeded without the VM's directory")
			}
			d.wantState(t, v.ID, model.Broken)
			mount()
			wantKind(t, "the command", c.do(t.Context(), d), c.kind)
			d.wantState(t, v.ID, c.want)
			if c.want == model.Suspended || c.want == model.Broken {
				d.resume(t, v)
			}
			if name != "stop" && name != "restart" {
				h.wantWork(t, v, "work of a")
			}
		})
	}
}

// TestRemountedStates starts VMs whose disk is mounted after the daemon's start. What is stored
// decides what each continues as.
func TestRemountedStates(t *testing.T) {
	stored := func(s model.State) func(*model.VM) { return func(v *model.VM) { v.State = s } }
	for name, c := range map[string]struct {
		from   model.State
		change func(*model.VM)
		memory bool
	}{
		"stopped":                {model.Stopped, nil, false},
		"failed":                 {model.Failed, nil, false},
		"broken":                 {model.Stopped, stored(model.Broken), false},
		"a resume cut off":       {model.Suspended, stored(model.Starting), true},
		"a suspension cut off":   {model.Suspended, stored(model.Pausing), true},
		"broken with memory":     {model.Suspended, stored(model.Broken), true},
		"an unfinished restore":  {model.Stopped, func(v *model.VM) { v.Restoring = []string{"system"} }, false},
		"a suspension left over": {model.Suspended, func(v *model.VM) { spec := v.Spec; v.Runtime = &model.Runtime{Spec: &spec} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.bringTo(t, v, c.from)
			if c.change != nil {
				d.changeStored(t, c.change)
			}
			d.die()
			if files := h.layout.VM(v.ID); name == "an unfinished restore" {
				damage(t, os.Mkdir(files.Restored(), 0o700))
				h.command("mv", files.SystemDisk(), files.Restored()+"/system")
			}
			mount := h.unmount(t, v)
			d = h.daemon()
			d.wantState(t, "a", model.Broken)
			wantKind(t, "a start without the disk", second(d.Start(t.Context(), "a", model.Start{}, nil)), fault.Damaged)
			_ = second(d.Stop(t.Context(), "a", ptr(time.Duration(0)), nil))
			mount()
			d.start(t, "a")
			if c.memory {
				d.wantContinues(t, v)
			} else {
				h.wantBooted(t, v, "work of a")
			}
			if got, _ := d.Get("a"); len(got.Restoring) > 0 {
				t.Error("the restore counts as unfinished")
			}
		})
	}
}

// TestRemountedMachine mounts the disk of a VM with a machine after the daemon's start. The machine
// continues.
func TestRemountedMachine(t *testing.T) {
	for _, state := range []model.State{model.Running, model.Paused} {
		h := newHost(t)
		d := h.daemon()
		v := d.make(t, state)
		d.die()
		mount := h.unmount(t, v)
		d = h.daemon()
		d.wantState(t, "a", state)
		if err := second(d.Suspend(t.Context(), "a", nil)); err == nil {
			t.Error("the VM was suspended without its directory")
		}
		mount()
		d.lookAtDisks(t.Context())
		d.suspend(t, v)
		d.start(t, "a")
		d.wantContinues(t, v)
	}
}

// TestUnmounted gives commands to a suspended VM whose disk was unmounted while the daemon runs.
func TestUnmounted(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	mount := h.unmount(t, v)
	for _, err := range []error{
		second(d.Start(t.Context(), "a", model.Start{}, nil)),
		second(d.Stop(t.Context(), "a", ptr(time.Duration(0)), nil)),
		second(d.Fork(t.Context(), "a", model.Fork{}, nil)),
	} {
		wantKind(t, "a command without the disk", err, fault.Damaged)
		wantHint(t, "a command without the disk", err, "Mount the disk")
	}
	mount()
	d.start(t, "a")
	d.wantContinues(t, v)
}

// TestMachineIsFoundLater gives a VM commands whose machine could not be looked for at the daemon's
// start, and can now. None of them ends the machine.
func TestMachineIsFoundLater(t *testing.T) {
	for name, command := range map[string]func(*testing.T, *daemon) error{
		"start":  func(t *testing.T, d *daemon) error { return second(d.Start(t.Context(), "a", model.Start{}, nil)) },
		"rename": func(t *testing.T, d *daemon) error { return second(d.Rename(t.Context(), "a", "a")) },
		"exec": func(t *testing.T, d *daemon) error {
			_, _, done, err := d.Use(t.Context(), "a")
			if err == nil {
				done()
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.die()
			h.failing("adopt", errBoom)
			d = h.daemon()
			d.wantState(t, "a", model.Broken)
			wantKind(t, "a deletion without force", d.Delete(t.Context(), "a", false, nil), fault.WrongState)
			h.failing("adopt", nil)
			if err := command(t, d); err != nil {
				t.Error(err)
			}
			d.wantContinues(t, v)
		})
	}
}

// TestDeleteBesideMemory deletes a VM that is shown as stopped because its disk was not mounted, so
// that its directory was empty, when a cut off suspension was recovered. Its memory is there again.
func TestDeleteBesideMemory(t *testing.T) {
	for name, remove := range map[string]func(context.Context, *daemon) error{
		"delete": func(ctx context.Context, d *daemon) error { return d.Delete(ctx, "a", false, nil) },
		"prune": func(ctx context.Context, d *daemon) error {
			pruned, err := d.Prune(ctx)
			if len(pruned.Removed) == 0 && err == nil {
				return fault.New(fault.WrongState, "nothing was removed")
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.suspend(t, v)
			d.changeStored(t, func(v *model.VM) { v.State = model.Pausing })
			d.die()
			dir := h.layout.VM(v.ID).Dir
			damage(t, errors.Join(os.Rename(dir, dir+".away"), os.Mkdir(dir, 0o700)))
			d = h.daemon()
			damage(t, errors.Join(os.RemoveAll(dir), os.Rename(dir+".away", dir)))
			wantKind(t, "removing the VM", remove(t.Context(), d), fault.WrongState)
			d.resume(t, v)
			d.wantContinues(t, v)
		})
	}
}

// TestRefusedDeletion deletes a VM while the disk of its directory is not mounted, and then again
// without force. What the VM was decides, not that the first command was refused.
func TestRefusedDeletion(t *testing.T) {
	for name, force := range map[string]bool{"without force": false, "with force": true} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.suspend(t, v)
			if !force {
				d.changeStored(t, func(v *model.VM) { v.State = model.Pausing })
			}
			d.die()
			mount := h.unmount(t, v)
			d = h.daemon()
			wantKind(t, "a deletion without the disk", d.Delete(t.Context(), "a", force, nil), fault.WrongState)
			mount()
			wantKind(t, "a deletion with the disk", d.Delete(t.Context(), "a", false, nil), fault.WrongState)
			d.resume(t, v)
			d.wantContinues(t, v)
		})
	}
}
