package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
)

// TestReplacedDisks replaces and removes the disk of a VM that runs, while the daemon runs and
// while none does. Nothing is saved with the wrong disk, no stop loses what the VM has written, and
// nothing is left of that when the file is back.
func TestReplacedDisks(t *testing.T) {
	for name, replace := range map[string]func(path string) error{
		"removed": os.Remove,
		"another file": func(path string) error {
			return errors.Join(os.WriteFile(path+".new", nil, 0o600), os.Rename(path+".new", path))
		},
		"another directory": func(path string) error {
			dir := filepath.Dir(path)
			return errors.Join(os.Rename(dir, dir+".moved"), os.CopyFS(dir, os.DirFS(dir+".moved")))
		},
		"no directory": func(path string) error { return os.Rename(filepath.Dir(path), filepath.Dir(path)+".moved") },
	} {
		for _, restarted := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", and a new daemon"}[restarted], func(t *testing.T) {
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				path := h.layout.VM(v.ID).SystemDisk()
				kept := filepath.Join(t.TempDir(), "kept")
				damage(t, os.Link(path, kept))
				if restarted {
					d.die()
				}
				damage(t, replace(path))
				if restarted {
					d = h.daemon()
				} else {
					d.lookAtDisks(t.Context())
				}
				got, err := d.Get("a")
				if err != nil || got.State != model.Running || got.Replaced == nil {
					t.Fatalf("the VM is shown as %s, with %+v: %v", got.State, got.Replaced, err)
				}
				for what, do := range d.losing(v) {
					err := do(t.Context())
					wantKind(t, what, err, fault.Damaged)
					wantHint(t, what, err, "banger vm kill a")
				}
				equal(t, "the pid of the machine", d.pid(t, "a"), v.Runtime.PID)
				h.wantMachines(t, 1)

				damage(t, errors.Join(os.RemoveAll(filepath.Dir(path)+".moved"), os.MkdirAll(filepath.Dir(path), 0o700), os.Rename(kept, path)))
				d.lookAtDisks(t.Context())
				if got, _ := d.Get("a"); got.Replaced != nil {
					t.Errorf("the file is back, and the VM is shown with %+v", got.Replaced)
				}
				d.wantContinues(t, v)
				d.bringTo(t, v, model.Stopped)
			})
		}
	}
}

// losing are the operations that would save the wrong disk, or lose the right one.
func (d *daemon) losing(v model.VM) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"a stop":       func(ctx context.Context) error { _, err := d.Stop(ctx, "a", nil, nil); return err },
		"a restart":    func(ctx context.Context) error { _, err := d.Restart(ctx, "a", nil, nil); return err },
		"a suspension": func(ctx context.Context) error { _, err := d.Suspend(ctx, "a", nil); return err },
		"a fork":       func(ctx context.Context) error { _, err := d.Fork(ctx, "a", model.Fork{}, nil); return err },
		"a snapshot": func(ctx context.Context) error {
			_, err := d.CreateSnapshot(ctx, "a", "s", nil)
			return err
		},
		"a larger disk": func(ctx context.Context) error {
			size := v.Spec.DiskSize * 2
			_, err := d.Set(ctx, "a", model.Change{DiskSize: &size})
			return err
		},
	}
}

// TestReplacedAndKilled ends a VM whose disk was replaced. The record keeps what was lost, and the
// VM starts with the disk that is there.
func TestReplacedAndKilled(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	path := h.layout.VM(v.ID).SystemDisk()
	h.command("cp", path, path+".new")
	damage(t, os.Rename(path+".new", path))
	d.lookAtDisks(t.Context())
	if _, err := d.Kill(t.Context(), "a", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	d.wantState(t, "a", model.Stopped)
	got, err := d.Get("a")
	if err != nil || got.Replaced != nil || got.LastError == nil {
		t.Fatalf("the VM is shown with %+v and the error %+v: %v", got.Replaced, got.LastError, err)
	}
	if f := got.LastError; !strings.Contains(f.Msg, filepath.Dir(path)) || !strings.Contains(f.Hint, "next start") || strings.Contains(f.Msg+f.Hint, "pid") {
		t.Errorf("the last error is %q with the hint %q", f.Msg, f.Hint)
	}
	d.start(t, "a")
	d.bringTo(t, v, model.Stopped)
}

// TestReplacedMemory puts the directory of a suspended VM back while the VM runs, with and without
// a record that was rebuilt for it. The machine continues, and that memory is not removed.
func TestReplacedMemory(t *testing.T) {
	for _, rebuilt := range []bool{false, true} {
		h := newHost(t)
		d := h.daemon()
		v := d.worker(t, model.Create{Name: "a"})
		d.suspend(t, v)
		files := h.layout.VM(v.ID)
		h.command("cp", "-a", files.Dir, files.Dir+".backup")
		d.resume(t, v)
		v, _ = d.Get("a")
		stored, err := d.store.VMs(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		d.die()
		damage(t, errors.Join(os.RemoveAll(files.Dir), os.Rename(files.Dir+".backup", files.Dir)))
		if rebuilt {
			stored[0].State, stored[0].Runtime = model.Starting, nil
			h.put(t, stored[0])
		}
		d = h.daemon()
		d.wantState(t, "a", model.Running)
		equal(t, "the pid of the machine", d.pid(t, "a"), v.Runtime.PID)
		if _, err := os.Stat(files.Suspended()); err != nil {
			t.Errorf("rebuilt %v: the memory of the backup: %v", rebuilt, err)
		}
		if _, err := d.Kill(t.Context(), "a", syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(files.Suspended()); err != nil {
			t.Errorf("rebuilt %v: the memory of the backup after a kill: %v", rebuilt, err)
		}
	}
}

// TestMachineWithoutAnything removes the directory and the record of a VM that runs. The daemon
// does not start and ends nothing.
func TestMachineWithoutAnything(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	if err := d.store.DeleteVM(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	d.die()
	dir := h.layout.VM(v.ID).Dir
	damage(t, os.Rename(dir, dir+".moved"))
	_, err := h.tryDaemon(t.Context())
	wantKind(t, "a start beside a machine without a directory", err, fault.WrongState)
	wantHint(t, "a start beside a machine without a directory", err, "kill ")
	h.wantMachines(t, 1)
	h.computer.End(v.ID, vmm.Exit{Reason: vmm.ExitKilled})
	h.daemon()
}

// TestLookThatHangs has the file system of one VM's disks answer no look. The looks at other VMs
// come to their end, and so does the daemon. No look begins before the last one has ended. Who
// needs the disks fails, and a kill ends the VM at once.
func TestLookThatHangs(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	a, b := d.started(t, model.Create{Name: "a"}), d.started(t, model.Create{Name: "b"})
	release := h.hanging("look " + a.ID)
	defer release()
	moved := filepath.Join(t.TempDir(), "moved")
	damage(t, os.Rename(h.layout.VM(b.ID).SystemDisk(), moved))
	shown := func(ref string) *model.Failure { v, _ := d.Get(ref); return v.Replaced }
	for range 3 {
		d.core.lookAtDisks(d.life, b.Created)
	}
	waitFor(t, func() bool { return shown("b") != nil })
	damage(t, os.Rename(moved, h.layout.VM(b.ID).SystemDisk()))
	waitFor(t, func() bool { d.core.lookAtDisks(d.life, b.Created); return shown("b") == nil })
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	equal(t, "how many looks hang", strings.Count(string(stacks), "(*host).stall("), 1)

	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := d.Stop(soon, "a", nil, nil)
	wantKind(t, "a stop", err, fault.Unavailable)
	wantHint(t, "a stop", err, "banger vm kill a")
	if why := shown("a"); why == nil {
		t.Error("the VM is shown as if its disks were its own")
	}
	d.wantState(t, "a", model.Running)

	errs := make(chan error)
	e, _ := d.find("a")
	stop := func() {
		_, err := d.Stop(t.Context(), "a", nil, nil)
		errs <- err
	}
	go stop()
	waitFor(t, func() bool { return e.Lock.Holder() == string(opStop) })
	d.endWaits(errEnding)
	wantKind(t, "a stop at the daemon's end", <-errs, fault.Unavailable)
	d.die()

	h.recoverTimeout = 50 * time.Millisecond
	d = h.daemon()
	d.bringTo(t, b, model.Stopped)
	wantEnds(t, "the kill", model.Stopped)(d.Kill(t.Context(), "a", syscall.SIGKILL))
	h.wantMachines(t, 0)
}

// TestStateMovedAway moves the state directory away under the daemon. Whatever makes machines fails
// then, and nothing makes an empty state directory, which would look like lost VMs.
func TestStateMovedAway(t *testing.T) {
	h := newHost(t)
	h.templates.Off = false
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	moved := h.layout.State + ".moved"
	for what, do := range map[string]func() error{
		"a new VM":   func() error { return second(d.Create(t.Context(), model.Create{Name: "b"}, nil)) },
		"a template": func() error { return second(d.BuildTemplate(t.Context(), model.Create{}, nil)) },
		"a start":    func() error { return second(d.Start(t.Context(), "a", model.Start{}, nil)) },
	} {
		damage(t, os.Rename(h.layout.State, moved))
		if do() == nil {
			t.Errorf("%s succeeded", what)
		}
		if _, err := os.Lstat(h.layout.State); err == nil {
			t.Errorf("%s made a state directory", what)
			damage(t, os.RemoveAll(h.layout.State))
		}
		damage(t, os.Rename(moved, h.layout.State))
	}
}
