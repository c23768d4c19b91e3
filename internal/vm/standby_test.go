package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmdir"
	"banger/internal/vmm"
)

// TestStandby checks that the first VM that fits takes the machine on standby.
func TestStandby(t *testing.T) {
	t.Parallel()
	for name, req := range map[string]model.Create{"": {}, "more disk": {DiskSize: 96 * model.MiB, WorkDiskSize: ptr(96 * model.MiB)}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.homes = true
			d := h.withStandby(t, model.Create{WorkDiskSize: ptr(64 * model.MiB)})
			d.setUsualWorkDisk(64 * model.MiB)
			waiting := h.computer.Running()
			if len(waiting) != 1 {
				t.Fatalf("%d machines wait on standby, not 1", len(waiting))
			}
			claim(t, h.computer.Halted(waiting[0].ID), "the machine on standby is not halted")
			claim(t, vmdir.IsUnrecorded(h.layout.VM(waiting[0].ID)), "nothing says that the machine on standby has no record")
			d.wantVMs(t, 0)
			req.Name = "a"
			if req.WorkDiskSize == nil {
				req.WorkDiskSize = ptr(64 * model.MiB)
			}
			v := d.launch(t, req)
			if tpl, err := d.template(t.Context(), v.Boot.Origin.Of); err != nil {
				t.Error(err)
			} else {
				equal(t, "the number of the template's uses", tpl.Uses, 1)
			}
			equal(t, "the VM's id, which is that of the machine on standby,", v.ID, waiting[0].ID)
			wantOrigin(t, v, model.FromTemplate)
			claim(t, !vmdir.IsUnrecorded(h.layout.VM(v.ID)), "the machine that a VM has taken counts as one without a record")
			d.wantStandbys(t, 0)
			d.wantRunning(t, v)
			equal(t, "the guest's host name", h.memoryOf(v).Name, "a")
			for path, size := range map[string]model.Bytes{h.layout.VM(v.ID).SystemDisk(): v.Spec.DiskSize, h.layout.VM(v.ID).WorkDisk(): v.Spec.WorkDiskSize} {
				wantSize(t, path, size)
			}
			if grown := h.called("drive"); grown != map[string]int{"": 0, "more disk": 2}[name] {
				t.Errorf("%d disks have grown in the guest", grown)
			}
			second := d.launch(t, model.Create{Name: "b", WorkDiskSize: ptr(64 * model.MiB)})
			wantOrigin(t, second, model.FromTemplate)
			claim(t, second.ID != v.ID, "two VMs have the machine %s", v.ID)
			h.work(v, "work of a")
			d.wantFork(t, d.fork(t, v, model.Fork{})[0], v, "work of a")
			d.suspend(t, v)
			d.resume(t, v)
			d.wantContinues(t, v)
			for _, v := range d.List() {
				if err := d.Delete(t.Context(), v.ID, true, nil); err != nil {
					t.Error(err)
				}
			}
			h.wantFiles(t, nil)
			h.wantMachines(t, 0)
		})
	}
}

// TestStandbyStaysForAVMThatFits launches VMs that do not fit the machine on standby, and starts
// one that has an id already.
func TestStandbyStaysForAVMThatFits(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withStandby(t, model.Create{})
	for i, req := range []model.Create{{Cold: true}, {VCPUs: ptr(2)}, {Image: "other"}, {DiskSize: 48 * model.MiB}} {
		req.Name = fmt.Sprint("v-", i)
		v := d.launch(t, req)
		equal(t, "the guest's host name", h.memoryOf(v).Name, req.Name)
		claim(t, d.standbys(t) == 1, "%+v took the machine on standby, which it does not fit", req)
	}
	d.create(t, model.Create{Name: "a"}) // its id is already set
	d.start(t, "a")
	if d.standbys(t) != 1 {
		t.Error("a start took the machine on standby, although its VM has an id already")
	}
}

// TestStandbyFails makes each part of a launch from a machine on standby fail. Either the VM boots
// instead, or the launch fails and can be undone.
func TestStandbyFails(t *testing.T) {
	t.Parallel()
	for hook, boots := range map[string]bool{
		"store creating": false, "store stopped": false, "store starting": false, "do preflight": false,
		"do prepare/two": false, "resume": true, "do agent": true,
		"do post-start/one": false, "store running": false,
	} {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.withStandby(t, model.Create{})
			launch := func() (model.VM, error) {
				return d.Launch(t.Context(), model.Create{Name: "a"}, func(model.VM) {}, nil)
			}
			got, err := failingOnce(h, hook, errBoom, launch, nil) // a boot and a cleanup succeed
			if boots {
				wantEnds(t, "the launch", model.Running)(got, err)
				wantOrigin(t, got, "")
				equal(t, "the guest's host name", h.memoryOf(got).Name, "a")
				h.wantMachines(t, 1)
				return
			}
			if !errors.Is(err, errBoom) {
				t.Errorf("the launch returned %v, not the error of its hook; the VM is %s", err, got.State)
			}
			if hook != "store creating" && hook != "store stopped" {
				if hook == "store starting" { // the VM can still be started
					h.wantMachines(t, 0)
					claim(t, !disk.MayExist(h.layout.VM(got.ID).Run), "the runtime directory of the unused machine is left")
					d.start(t, "a")
				}
				if err := d.Delete(t.Context(), "a", true, nil); err != nil {
					t.Error(err)
				}
			}
			h.wantFiles(t, nil)
			h.wantMachines(t, 0)
			d.wantVMs(t, 0)
		})
	}
}

// TestStandbyDies ends a machine on standby. The VM that takes it boots instead.
func TestStandbyDies(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withStandby(t, model.Create{})
	h.computer.End(h.computer.Running()[0].ID, vmm.Exit{Reason: vmm.ExitKilled})
	v := d.launch(t, model.Create{Name: "a"})
	wantOrigin(t, v, "")
	equal(t, "the guest's host name", h.memoryOf(v).Name, "a")
}

// TestStandbyEnds checks that a machine on standby ends with its template, and with the daemon.
func TestStandbyEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *daemon){
		"delete": func(t *testing.T, d *daemon) {
			if _, err := d.deleteTemplate(t.Context(), "img"); err != nil {
				t.Error(err)
			}
		},
		"prune": func(t *testing.T, d *daemon) {
			if _, err := d.pruneTemplates(t.Context(), false); err != nil {
				t.Error(err)
			}
		},
		"end":  func(_ *testing.T, d *daemon) { d.die() },
		"kill": func(_ *testing.T, d *daemon) { d.killed(func() {}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.withStandby(t, model.Create{})
			end(t, d)
			h.wantFiles(t, nil)
			h.wantMachines(t, 0)
		})
	}
}

// TestFillWithoutATemplate checks that a template that was removed in the meantime does not
// postpone its image.
func TestFillWithoutATemplate(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.templates.Off, h.templates.Standby = false, 1
	d := h.daemon()
	d.busy()
	if err := d.pool().FillInBackground(t.Context(), d.specFor(t, model.Create{})); err != nil {
		t.Fatal(err)
	}
	d.wantPostponed(t, 0)
	h.wantFiles(t, nil)
}

// TestKilledWithAStandbyMachine kills the daemon at each moment of a launch from a machine on
// standby. At most the VM is left, and it can be started.
func TestKilledWithAStandbyMachine(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{
		"store creating", "store stopped", "records [a]", "store starting", "do preflight", "do prepare/two",
		"resume", "do agent", "do assume", "store running",
	} {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.withStandby(t, model.Create{})
			dead := d
			d = d.killedIn(hook, func(ctx context.Context) { dead.Launch(ctx, model.Create{Name: "a"}, func(model.VM) {}, nil) })
			d.busy()
			h.wantMachines(t, 0)
			list := d.List()
			for _, v := range list {
				_, err := os.Stat(h.layout.VM(v.ID).Run)
				claim(t, err != nil, "the killed VM, which is %s, still has a runtime directory", v.State)
				wantNoRuntime(t, v)
				d.start(t, v.ID)
				if h.memoryOf(v).Name != "a" {
					t.Errorf("the guest's identity is %+v", h.memoryOf(v))
				}
				if err := d.Delete(t.Context(), v.ID, true, nil); err != nil {
					t.Error(err)
				}
			}
			h.wantFiles(t, nil)
			claim(t, len(list) <= 1, "there were %d VMs", len(list))
		})
	}
}

// TestStandbyOfALaterState puts a state back that is older than a machine on standby. The machine
// has no directory there, and no user misses it.
func TestStandbyOfALaterState(t *testing.T) {
	h := newHost(t)
	d := h.withStandby(t, model.Create{})
	id := h.computer.Running()[0].ID
	then := d.remember()
	d.dead.Store(true)
	d.die()
	d.putBack(then)
	damage(t, os.RemoveAll(h.layout.VM(id).Dir))
	d = h.daemon()
	d.busy()
	h.wantMachines(t, 0)
	h.wantFiles(t, nil)
}

// TestLaunchUnderATakenName checks that a launch that is refused keeps the machine on standby, or
// ends it.
func TestLaunchUnderATakenName(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withStandby(t, model.Create{})
	d.create(t, model.Create{Name: "a"})
	before := h.running() - d.standbys(t)
	if _, err := d.Launch(t.Context(), model.Create{Name: "a"}, func(model.VM) {}, nil); fault.KindOf(err) != fault.Exists {
		t.Errorf("the launch with a taken name returned %v", err)
	}
	h.wantMachines(t, before+d.standbys(t))
	d.wantVMs(t, 1)
	ids := []string{}
	for _, m := range h.computer.Running() {
		ids = append(ids, m.ID)
	}
	d.launch(t, model.Create{Name: "b"})
	if v, _ := d.Get("b"); len(ids) == 1 && !slices.Contains(ids, v.ID) {
		t.Errorf("the machine on standby, %s, was not taken", ids)
	}
}
