package vm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/store"
	"banger/internal/vmdir"
	"banger/internal/vmm"
)

// TestKilledInEachStep kills the daemon in each step of a start. The next daemon removes what the
// start has made.
func TestKilledInEachStep(t *testing.T) {
	for _, name := range startSteps {
		if name == "run-dir" || name == "system-disk" || name == "template" {
			continue // they have no hook to hang in
		}
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			d := h.daemon()
			v := d.create(t, model.Create{Name: "a"})
			before := h.files()
			release := h.hanging("do " + name)
			over := make(chan struct{})
			ctx, cancel := context.WithCancel(t.Context())
			go func() { defer close(over); d.Start(ctx, "a", model.Start{}, nil) }()
			waitFor(t, func() bool { return h.called("do "+name) > 0 })
			// From here on this daemon can store nothing, and its cleanups do nothing.
			d.store.Close()
			h.failing("signal", errBoom)
			h.failing("undo one", errBoom)
			h.failing("undo two", errBoom)
			cancel()
			release()
			<-over
			d.Manager.Close()
			for _, hook := range []string{"signal", "undo one", "undo two"} {
				h.failing(hook, nil)
			}

			d = h.daemon()
			got, err := d.Get("a")
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "the VM after recovery", got.State, model.Failed)
			wantNoRuntime(t, got)
			wantLastError(t, got, "")
			h.wantFiles(t, before)
			h.wantMachines(t, 0)
			if _, err := d.Start(t.Context(), v.ID, model.Start{}, nil); err != nil {
				t.Errorf("the start after recovery: %v", err)
			}
		})
	}
}

func TestRunningSurvivesTheDaemon(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "stays"})
	d.create(t, model.Create{Name: "ends"})
	detached := d.create(t, model.Create{Name: "detached", Remove: model.RemoveOnDetach})
	for _, name := range []string{"stays", "ends", "detached"} {
		if _, err := d.Start(t.Context(), name, model.Start{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	ends, _ := d.Get("ends")
	d.die()
	if h.running() != 3 {
		t.Fatalf("%d machines run", h.running())
	}
	h.end(ends, vmm.ExitCrashed)
	d = h.daemon()
	d.wantState(t, "stays", model.Running)
	got, _ := d.Get("ends")
	equal(t, "the VM whose machine ended", got.State, model.Stopped)
	wantLastError(t, got, "")
	if _, err := d.Get(detached.ID); fault.KindOf(err) != fault.NotFound {
		t.Errorf("the VM with the policy remove-on-detach survived its client: %v", err)
	}
	h.wantMachines(t, 1)
	stays, _ := d.Get("stays")
	h.end(stays, vmm.ExitPanic) // the daemon must watch the adopted machine
	waitFor(t, func() bool { return d.state(t, "stays") == model.Stopped })
	got, _ = d.Get("stays")
	wantLastError(t, got, "panic")
}

func TestOrphansAreRemoved(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a"})
	if _, err := d.Start(t.Context(), "a", model.Start{}, nil); err != nil {
		t.Fatal(err)
	}
	// As if it were a machine on standby.
	if err := errors.Join(vmdir.MarkUnused(h.layout.VM(v.ID)), d.store.DeleteVM(t.Context(), v.ID)); err != nil {
		t.Fatal(err)
	}
	d.die()
	foreign := h.layout.VMs() + "/notes"
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	h.daemon()
	h.wantFiles(t, []string{foreign})
	h.wantMachines(t, 0)
	claim(t, !disk.MayExist(h.layout.Lost()), "the machine's directory is kept")
}

// TestMissingDirectory takes the directory of a VM away that has no machine, and puts it back. The
// VM is what it was. The same holds for a link to a disk that is not mounted.
func TestMissingDirectory(t *testing.T) {
	for state, want := range map[model.State]model.State{
		model.Stopped: model.Stopped, model.Suspended: model.Suspended, model.Starting: model.Suspended,
	} {
		for _, linked := range []bool{false, true} {
			t.Run(fmt.Sprint(state, ", linked: ", linked), func(t *testing.T) {
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				d.bringTo(t, v, want)
				if state == model.Starting { // a resume that had hardly begun
					stored, err := d.store.VMs(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					stored[0].State = state
					if err := d.store.PutVM(t.Context(), stored[0]); err != nil {
						t.Fatal(err)
					}
				}
				d.die()
				dir, away := h.layout.VM(v.ID).Dir, t.TempDir()+"/away"
				if linked {
					mounted := filepath.Join(t.TempDir(), v.ID)
					damage(t, errors.Join(os.Rename(dir, mounted), os.Symlink(mounted, dir)))
					dir = mounted
				}
				damage(t, os.Rename(dir, away))
				d = h.daemon()
				d.wantState(t, "a", model.Broken)
				got, _ := d.Get("a")
				wantLastError(t, got, h.layout.VM(v.ID).Dir)
				if want == model.Suspended {
					_, err := d.Start(t.Context(), "a", model.Start{}, nil)
					wantKind(t, "a start without the directory", err, fault.Damaged)
				}
				d.die()
				damage(t, os.Rename(away, dir))
				d = h.daemon()
				d.wantState(t, "a", want)
				if want == model.Suspended {
					d.resume(t, v)
					d.wantContinues(t, v)
					return
				}
				d.start(t, "a")
			})
		}
	}
}

// TestDeletionWithoutTheDisk deletes a VM whose directory is on a disk that is not mounted. The
// deletion fails, also in the next daemon. When the disk is there, the VM is what it was.
func TestDeletionWithoutTheDisk(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	link, mounted := h.layout.VM(v.ID).Dir, filepath.Join(t.TempDir(), v.ID)
	damage(t, errors.Join(os.Rename(link, mounted), os.Symlink(mounted, link), os.Rename(mounted, mounted+".away")))
	for range 2 {
		err := d.Delete(t.Context(), "a", true, nil)
		wantKind(t, "the deletion", err, fault.WrongState)
		wantHint(t, "the deletion", err, link)
		d.wantState(t, "a", model.Broken)
		d.die()
		d = h.daemon()
		d.wantState(t, "a", model.Broken)
	}
	d.die()
	damage(t, os.Rename(mounted+".away", mounted))
	d = h.daemon()
	d.wantState(t, "a", model.Suspended)
	d.resume(t, v)
	d.wantContinues(t, v)
	if err := d.Delete(t.Context(), "a", true, nil); err != nil {
		t.Error(err)
	}
	claim(t, !disk.MayExist(link) && !disk.MayExist(mounted), "the VM's directory is left")
}

// TestRestoreWithoutTheDisk starts a daemon while a VM that was being restored has its directory on
// a disk that is not mounted. The restore still counts as unfinished, and commands say why.
func TestRestoreWithoutTheDisk(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a"})
	v.Restoring = []string{"work"}
	damage(t, d.store.PutVM(t.Context(), v))
	d.die()
	link, mounted := h.layout.VM(v.ID).Dir, filepath.Join(t.TempDir(), v.ID)
	damage(t, errors.Join(os.Mkdir(h.layout.VM(v.ID).Restored(), 0o700), os.Rename(link, mounted), os.Symlink(mounted, link), os.Rename(mounted, mounted+".away")))
	d = h.daemon()
	d.wantState(t, "a", model.Broken)
	for name, command := range map[string]func() error{
		"resume": func() error { return second(d.Resume(t.Context(), "a", nil)) },
		"start":  func() error { return second(d.Start(t.Context(), "a", model.Start{}, nil)) },
		"stop":   func() error { return second(d.Stop(t.Context(), "a", nil, nil)) },
	} {
		err := command()
		claim(t, err != nil && fault.HintOf(err) != "" && strings.Contains(err.Error(), link), "%s returned %v", name, err)
		wantKind(t, name, err, fault.Damaged)
	}
	if got, err := d.Get("a"); err != nil || len(got.Restoring) == 0 {
		t.Errorf("the restore counts as complete: %v", err)
	}
}

// TestIncompleteRestoreWithoutTheDisk moves a VM's directory away while a restore is incomplete.
// Commands say so. When the directory is back, the next command completes the restore.
func TestIncompleteRestoreWithoutTheDisk(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.snap(t, v, "s")
	h.work(v, "more")
	h.failing("store suspended", errBoom)
	err := restoreInto(model.Restore{Force: true})(t, d)
	claim(t, errors.Is(err, errBoom) && strings.Contains(err.Error(), "its next operation completes that"), "the restore returned %v", err)
	h.failing("store suspended", nil)
	dir := h.layout.VM(v.ID).Dir
	h.command("mv", dir, dir+".away")
	for range 2 {
		_, err = d.Resume(t.Context(), "a", nil)
		wantKind(t, "the resume", err, fault.Damaged)
		wantHint(t, "the resume", err, "Mount the disk")
	}
	h.command("mv", dir+".away", dir)
	d.resume(t, v)
	h.wantWork(t, v, "work of a")
}

// TestOrphanOfAUserIsKept loses the record of a VM whose directory has a copy of the record. The
// directory is moved with everything in it; the run directory is removed. While the machine runs,
// the daemon does not start, whether the copy leads to the machine or is older.
func TestOrphanOfAUserIsKept(t *testing.T) {
	for _, up := range []bool{true, false} {
		t.Run(fmt.Sprint("the copy leads to the machine: ", up), func(t *testing.T) { orphanIsKept(t, up) })
	}
}

func orphanIsKept(t *testing.T, up bool) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	d.start(t, "a")
	v, _ := d.Get("a")
	copied := v
	if !up {
		copied.State, copied.Runtime = model.Stopped, nil
	}
	k := vmdir.Keep(d.store, h.layout, slog.New(slog.DiscardHandler))
	if err := errors.Join(k.PutVM(t.Context(), copied), k.Close(), d.store.DeleteVM(t.Context(), v.ID)); err != nil {
		t.Fatal(err)
	}
	d.die()
	files := h.files()
	_, err := h.tryDaemon(t.Context())
	claim(t, fault.KindOf(err) == fault.WrongState, "the start of the daemon gave %v", err)
	h.wantFiles(t, files)
	h.wantMachines(t, 1)
	h.end(v, vmm.ExitCrashed)
	d = h.daemon()
	h.wantNothingLeft(t)
	lost, err := vmdir.Lost(h.layout)
	if err != nil || len(lost) != 1 || lost[0].ID != v.ID {
		t.Fatalf("lost directories: %v, %v", lost, err)
	}
	if _, err := os.Stat(lost[0].Files().SystemDisk()); err != nil {
		t.Errorf("the system disk: %v", err)
	}
	if _, err := vmdir.Read(lost[0].Files(), v.ID); err != nil {
		t.Errorf("the copy of the record: %v", err)
	}
	err = d.References(func(images, kernels map[string][]string) error {
		for what, users := range map[string][]string{"image": images[v.Spec.ImageID], "kernel": kernels[v.Spec.KernelID]} {
			if !slices.Contains(users, model.LostUser("a", lost[0].Dir)) {
				t.Errorf("a prune would remove the %s of the lost VM, which has the users %q", what, users)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestOlderDatabase puts a database back that is older than a running VM. The VM continues when its
// record is added from the copy.
func TestOlderDatabase(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	stored, err := d.store.VMs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k := vmdir.Keep(d.store, h.layout, slog.New(slog.DiscardHandler))
	if err := errors.Join(k.PutVM(t.Context(), stored[0]), k.Close(), d.store.DeleteVM(t.Context(), v.ID)); err != nil {
		t.Fatal(err)
	}
	d.die()
	_, err = h.tryDaemon(t.Context())
	claim(t, fault.KindOf(err) == fault.WrongState, "the start of the daemon gave %v", err)
	s, err := store.Open(t.Context(), h.layout.Database())
	if err != nil {
		t.Fatal(err)
	}
	c, err := vmdir.Read(h.layout.VM(v.ID), v.ID)
	if err := errors.Join(err, s.PutVM(t.Context(), c.VM), s.Close()); err != nil {
		t.Fatal(err)
	}
	d = h.daemon()
	d.wantRunning(t, v)
	h.wantWork(t, v, "work of a")
}

// TestRecoveryIsNotInterrupted ends the daemon while it recovers. It still adopts running
// machines: if it recorded them as broken, the next daemon would end them.
func TestRecoveryIsNotInterrupted(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	d.start(t, "a")
	d.die()
	ctx, cancel := context.WithCancel(t.Context())
	release := h.hanging("adopt")
	adopting := h.called("adopt")
	done := make(chan *daemon)
	go func() { done <- h.daemonWithin(ctx) }()
	waitFor(t, func() bool { return h.called("adopt") > adopting })
	cancel()
	release()
	d = <-done
	d.wantState(t, "a", model.Running)
	h.wantMachines(t, 1)
}

// TestAdoptionIsTriedAgain makes an adoption fail, as too many open files would. The daemon
// reports it and ends nothing, and the next one adopts the machine. So does a stop.
func TestAdoptionIsTriedAgain(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	d.start(t, "a")
	d.die()
	h.failing("adopt", errBoom)
	d = h.daemon()
	got, err := d.Get("a")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "a VM whose machine cannot be adopted", got.State, model.Broken)
	wantLastHint(t, got)
	d.die()
	h.failing("adopt", nil)
	d = h.daemon()
	d.wantState(t, "a", model.Running)
	h.wantMachines(t, 1)
	d.die()
	h.failing("adopt", errBoom)
	d = h.daemon()
	h.failing("adopt", nil)
	v, err := d.Stop(t.Context(), "a", nil, nil)
	wantEnds(t, "the stop", model.Stopped)(v, err)
	h.wantMachines(t, 0)
	claim(t, v.LastError == nil, "the machine was adopted for the stop, and its guest not asked: %+v", v.LastError)
}

// TestRefusedCommandsEndNothing gives commands to a VM whose machine the daemon cannot look for.
// They fail and change nothing, so the next daemon adopts the machine.
func TestRefusedCommandsEndNothing(t *testing.T) {
	foreign := fault.New(fault.WrongState, "it belongs to another home")
	for name, command := range map[string]func(*testing.T, *daemon) error{
		"start": func(t *testing.T, d *daemon) error {
			_, err := d.Start(t.Context(), "a", model.Start{}, nil)
			return err
		},
		"stop":          func(t *testing.T, d *daemon) error { _, err := d.Stop(t.Context(), "a", nil, nil); return err },
		"delete":        func(t *testing.T, d *daemon) error { return d.Delete(t.Context(), "a", true, nil) },
		"gentle delete": func(t *testing.T, d *daemon) error { return d.Delete(t.Context(), "a", false, nil) },
		"kill":          func(t *testing.T, d *daemon) error { return second(d.Kill(t.Context(), "a", syscall.SIGKILL)) },
		"restart":       func(t *testing.T, d *daemon) error { return second(d.Restart(t.Context(), "a", nil, nil)) },
		"resume":        func(t *testing.T, d *daemon) error { return second(d.Resume(t.Context(), "a", nil)) },
		"pause":         func(t *testing.T, d *daemon) error { return second(d.Pause(t.Context(), "a", nil)) },
		"suspend":       func(t *testing.T, d *daemon) error { return second(d.Suspend(t.Context(), "a", nil)) },
		"fork":          func(t *testing.T, d *daemon) error { return second(d.Fork(t.Context(), "a", model.Fork{}, nil)) },
		"snapshot":      func(t *testing.T, d *daemon) error { return second(d.CreateSnapshot(t.Context(), "a", "t", nil)) },
		"set": func(t *testing.T, d *daemon) error {
			return second(d.Set(t.Context(), "a", model.Change{VCPUs: ptr(2)}))
		},
		"restore":        restoreInto(model.Restore{Force: true}),
		"restore disks":  restoreInto(model.Restore{Force: true, DisksOnly: true}),
		"gentle restore": restoreInto(model.Restore{}),
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.snap(t, v, "s")
			h.work(v, "more")
			d.die()
			h.failing("adopt", foreign)
			d = h.daemon()
			d.wantState(t, "a", model.Broken)
			for range 2 {
				err := command(t, d)
				if !errors.Is(err, foreign) && fault.KindOf(err) != fault.WrongState {
					t.Errorf("the command returned %v, not why the machine cannot be looked for", err)
				}
				d.wantState(t, "a", model.Broken)
			}
			d.die()
			h.failing("adopt", nil)
			d = h.daemon()
			d.wantState(t, "a", model.Running)
			h.wantMachines(t, 1)
			h.wantWork(t, v, "more")
			got, err := d.Get("a")
			if err != nil {
				t.Fatal(err)
			}
			if got.LastError != nil || got.Restoring != nil {
				t.Errorf("the VM that was adopted has the last error %+v, and is to get %v", got.LastError, got.Restoring)
			}
			d.restore(t, "s", model.Restore{Into: "a", Force: true})
			h.wantWork(t, v, "work of a")
		})
	}
}

// TestRefusedRestoreReplacesNothing restores a VM whose earlier machine may be left and cannot be
// looked for. That is refused, and the next daemon finds the VM as it was before.
func TestRefusedRestoreReplacesNothing(t *testing.T) {
	for state, bringTo := range map[model.State]func(*testing.T, *host, *daemon, model.VM){
		model.Broken: func(t *testing.T, _ *host, d *daemon, v model.VM) { d.bringTo(t, v, model.Broken) },
		model.Suspended: func(t *testing.T, h *host, d *daemon, v model.VM) {
			h.failing("signal", errBoom)
			_, err := d.Suspend(t.Context(), "a", nil)
			claim(t, errors.Is(err, errBoom), "the suspension returned %v", err)
			h.failing("signal", nil)
		},
	} {
		t.Run(string(state), func(t *testing.T) {
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.snap(t, v, "s")
			h.work(v, "more")
			bringTo(t, h, d, v)
			h.failing("adopt", errBoom)
			d.die() // it knows the machine
			d = h.daemon()
			for range 2 {
				err := restoreInto(model.Restore{Force: true})(t, d)
				claim(t, errors.Is(err, errBoom), "the restore returned %v", err)
				d.wantState(t, "a", state)
			}
			d.die()
			h.failing("adopt", nil)
			d = h.daemon()
			got, err := d.Get("a")
			claim(t, err == nil && len(got.Restoring) == 0 && got.Parent == nil, "the VM is recorded as %+v: %v", got, err)
			h.wantOnDisk(t, v, "more")
			if state == model.Suspended {
				d.resume(t, v)
				h.wantWork(t, v, "more")
			}
		})
	}
}

// restoreInto restores snapshot s into VM a.
func restoreInto(req model.Restore) func(*testing.T, *daemon) error {
	req.Into = "a"
	return func(t *testing.T, d *daemon) error { return second(d.RestoreSnapshot(t.Context(), "s", req, nil)) }
}

// TestKilledWhileMakingADisk checks that recovery removes the unfinished disk of a killed daemon.
func TestKilledWhileMakingADisk(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a"})
	d.start(t, "a")
	e, err := d.find("a")
	if err != nil {
		t.Fatal(err)
	}
	// Recovery looks into every state between two others.
	if err := d.rewrite(t.Context(), e, func(v *model.VM) { v.State = model.Stopping }); err != nil {
		t.Fatal(err)
	}
	d.die()
	temp := filepath.Join(h.layout.VM(v.ID).Dir, disk.TempPrefix+"work.ext4-123")
	if err := os.WriteFile(temp, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.daemon()
	if _, err := os.Stat(temp); err == nil {
		t.Errorf("the unfinished disk is left: %s", temp)
	}
}

// TestSilentVMMsKeepNobodyWaiting starts a daemon whose VMMs do not answer, as after a SIGSTOP. The
// daemon serves, shows what it does not know yet, and looks for all machines at once. Operations
// wait for the machine.
func TestSilentVMMsKeepNobodyWaiting(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	const n = 8
	var vms []model.VM
	for i := range n {
		vms = append(vms, d.worker(t, model.Create{Name: fmt.Sprint("v-", i)}))
	}
	stopped := d.create(t, model.Create{Name: "at-rest"})
	d.die()
	h.recoverTimeout = 10 * time.Millisecond
	release := h.hanging("adopt")
	calls := h.called("adopt")
	d = h.daemon()
	waitFor(t, func() bool { return h.called("adopt") == calls+n })
	for _, v := range d.List() {
		want := model.Recovering
		if v.ID == stopped.ID {
			waitFor(t, func() bool { return d.state(t, v.ID) == model.Stopped })
			continue
		}
		equal(t, "the state of a VM whose VMM does not answer", v.State, want)
	}
	d.start(t, "at-rest") // the others do not matter to it
	used := make(chan error, 3)
	go func() {
		_, _, done, err := d.Use(t.Context(), vms[0].ID)
		if err == nil {
			done()
		}
		used <- err
	}()
	go func() { used <- second(d.Pause(t.Context(), vms[1].ID, nil)) }()
	go func() { used <- second(d.Kill(t.Context(), vms[2].ID, syscall.SIGKILL)) }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, _, _, err := d.Use(ctx, vms[3].ID); err == nil {
		t.Error("a VM that is not recovered can be used")
	}
	if _, err := d.Agent(ctx, vms[3].ID); err == nil {
		t.Error("a VM that is not recovered has an agent")
	}
	if err := d.References(func(images, _ map[string][]string) error {
		equal(t, "the number of users of the image", len(images["id-of-img"]), n+1)
		return nil
	}); err != nil {
		t.Error(err)
	}
	release()
	for range 3 {
		if err := <-used; err != nil {
			t.Errorf("an operation that waited failed: %v", err)
		}
	}
	d.wantState(t, vms[1].ID, model.Paused)
	d.wantState(t, vms[2].ID, model.Stopped)
	for _, v := range vms[3:] {
		waitFor(t, func() bool { return d.state(t, v.ID) == model.Running })
	}
	d.deleteAll(t)
}

// TestOrphansOfACrashOnly checks that a machine that is made while orphans are still being removed
// is none of them.
func TestOrphansOfACrashOnly(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.started(t, model.Create{Name: "a"})
	if err := d.store.DeleteVM(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	d.die()
	h.recoverTimeout = 10 * time.Millisecond
	release := h.hanging("undo one")
	calls := h.called("undo one")
	d = h.daemon()
	waitFor(t, func() bool { return h.called("undo one") > calls })
	d.started(t, model.Create{Name: "b"})
	release()
	waitFor(t, func() bool { return !disk.MayExist(h.layout.VM(v.ID).Dir) })
	d.wantState(t, "b", model.Running)
	h.wantMachines(t, 1)
}

// TestRetriesHoldNothing tries again and again to end a machine that does not end. Each try looks
// for the machine, and releases what it opened.
func TestRetriesHoldNothing(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	h.failing("signal", errBoom)
	if _, err := d.Suspend(t.Context(), v.ID, nil); err == nil {
		t.Fatal("the machine has ended")
	}
	d.die()
	d = h.daemon()
	before := h.agents.Load()
	for range 10 {
		d.retryCleanups(t.Context())
	}
	equal(t, "the number of open clients after ten tries", h.agents.Load(), before)
	h.failing("signal", nil)
	d.resume(t, v)
	d.wantContinues(t, v)
}
