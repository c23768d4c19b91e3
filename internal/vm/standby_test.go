package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
)

// TestStandby gives a machine that waits to the VM that comes first.
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
			d.wantStandbys(t, 0)
			d.wantRunning(t, v)
			equal(t, "the guest's host name", h.look(v).Name, "a")
			for path, size := range map[string]model.Bytes{h.layout.VM(v.ID).SystemDisk(): v.Spec.DiskSize, h.layout.VM(v.ID).WorkDisk(): v.Spec.WorkDiskSize} {
				wantSize(t, path, size)
			}
			if grown := h.called("drive"); grown != map[string]int{"": 0, "more disk": 2}[name] {
				t.Errorf("%d disks have grown", grown)
			}
			second := d.launch(t, model.Create{Name: "b", WorkDiskSize: ptr(64 * model.MiB)})
			wantOrigin(t, second, model.FromTemplate)
			claim(t, second.ID != v.ID, "two VMs have the machine %s", v.ID)
			h.work(v, "work of a")
			d.isFork(t, d.fork(t, v, model.Fork{})[0], v, "work of a")
			d.suspend(t, v)
			d.resume(t, v)
			d.goesOn(t, v)
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

// TestStandbyIsNotForAll who could have it.
func TestStandbyIsNotForAll(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withStandby(t, model.Create{})
	for i, req := range []model.Create{{Cold: true}, {VCPUs: ptr(2)}, {Image: "other"}, {DiskSize: 48 * model.MiB}} {
		req.Name = fmt.Sprint("v-", i)
		v := d.launch(t, req)
		equal(t, "the guest's host name", h.look(v).Name, req.Name)
		claim(t, d.standbys(t) == 1, "%+v took the machine on standby, which it does not fit", req)
	}
	d.create(t, model.Create{Name: "a"}) // which has an id already
	d.running(t, "a")
	if d.standbys(t) != 1 {
		t.Error("it was taken by a start")
	}
}

// TestStandbyFails each part of a launch that goes on from a machine on standby: it boots instead, or nothing is left.
func TestStandbyFails(t *testing.T) {
	t.Parallel()
	for hook, boots := range map[string]bool{
		"store creating": false, "store stopped": false, "store starting": false, "do preflight": false, "do prepare/two": false, "go on": true, "do agent": true,
		"do post-start/one": false, "store running": false,
	} {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.withStandby(t, model.Create{})
			calls := h.called(hook)
			h.failing(hook, errBoom)
			release := h.hanging(hook)
			type result struct {
				model.VM
				err error
			}
			results := make(chan result, 1)
			go func() {
				v, err := d.Launch(t.Context(), model.Create{Name: "a"}, func(model.VM) {}, nil)
				results <- result{v, err}
			}()
			waitFor(t, func() bool { return h.called(hook) > calls })
			h.failing(hook, nil) // a boot, and a clean-up, do better
			release()
			got := <-results
			if boots {
				wantEnds(t, "the launch", model.Running)(got.VM, got.err)
				wantOrigin(t, got.VM, "")
				equal(t, "the guest's host name", h.look(got.VM).Name, "a")
				h.wantMachines(t, 1)
				return
			}
			if !errors.Is(got.err, errBoom) {
				t.Errorf("%s, %v", got.State, got.err)
			}
			if hook != "store creating" && hook != "store stopped" {
				if hook == "store starting" { // it may be started yet
					d.running(t, "a")
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

// TestStandbyDies while it waits: whoever gets it is booted.
func TestStandbyDies(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withStandby(t, model.Create{})
	h.computer.End(h.computer.Running()[0].ID, vmm.Exit{Reason: vmm.ExitKilled})
	v := d.launch(t, model.Create{Name: "a"})
	wantOrigin(t, v, "")
	equal(t, "the guest's host name", h.look(v).Name, "a")
}

// TestStandbyEnds with its template, and with the daemon.
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

// TestFillWithoutATemplate that has gone in the meantime is no reason to give the image up.
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

// TestKilledWithAStandbyMachine kills the daemon at each moment of a launch that takes one: nothing is left but a VM that says what became of it.
func TestKilledWithAStandbyMachine(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{
		"store creating", "store stopped", "records [a]", "store starting", "do preflight", "do prepare/two", "go on", "do agent", "do assume", "store running",
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
				d.running(t, v.ID)
				if h.look(v).Name != "a" {
					t.Errorf("%+v", h.look(v))
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

// TestLaunchUnderATakenName leaves the machine on standby, or nothing of it.
func TestLaunchUnderATakenName(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withStandby(t, model.Create{})
	d.create(t, model.Create{Name: "a"})
	before := h.running() - d.standbys(t)
	if _, err := d.Launch(t.Context(), model.Create{Name: "a"}, func(model.VM) {}, nil); fault.KindOf(err) != fault.Exists {
		t.Errorf("got %v", err)
	}
	h.wantMachines(t, before+d.standbys(t))
	d.wantVMs(t, 1)
	ids := []string{}
	for _, m := range h.computer.Running() {
		ids = append(ids, m.ID)
	}
	d.launch(t, model.Create{Name: "b"})
	if v, _ := d.Get("b"); len(ids) == 1 && !slices.Contains(ids, v.ID) {
		t.Errorf("%s was not taken", ids)
	}
}
