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
			if len(waiting) != 1 || !h.computer.Halted(waiting[0].ID) || len(d.List()) != 0 {
				t.Fatalf("%d machines, %v", len(waiting), d.List())
			}
			req.Name = "a"
			if req.WorkDiskSize == nil {
				req.WorkDiskSize = ptr(64 * model.MiB)
			}
			v := d.launch(t, req)
			if tpl, err := d.template(t.Context(), v.Boot.Origin.Of); err != nil || tpl.Uses != 1 {
				t.Errorf("%+v, %v", tpl, err)
			}
			if v.ID != waiting[0].ID || from(v) != model.FromTemplate || v.Boot.Cold || d.standbys(t) != 0 {
				t.Errorf("%s went on as %+v; %s had waited, %d still do", v.ID, v.Boot, waiting[0].ID, d.standbys(t))
			}
			if g := h.look(v); g.Frozen || g.Name != "a" || h.computer.Halted(v.ID) {
				t.Errorf("%+v; halted: %v", g, h.computer.Halted(v.ID))
			}
			for path, size := range map[string]model.Bytes{h.layout.VM(v.ID).SystemDisk(): v.Spec.DiskSize, h.layout.VM(v.ID).WorkDisk(): v.Spec.WorkDiskSize} {
				if info, err := os.Stat(path); err != nil || info.Size() != int64(size) {
					t.Errorf("%s: %v, %v", path, info, err)
				}
			}
			if grown := h.called("drive"); grown != map[string]int{"": 0, "more disk": 2}[name] {
				t.Errorf("%d disks have grown", grown)
			}
			second := d.launch(t, model.Create{Name: "b", WorkDiskSize: ptr(64 * model.MiB)})
			if from(second) != model.FromTemplate || second.ID == v.ID {
				t.Errorf("%+v", second.Boot)
			}
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
			if left := h.files(); len(left) != 0 || h.running() != 0 {
				t.Errorf("left: %v, %d machines", left, h.running())
			}
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
		if h.look(v).Name != req.Name || d.standbys(t) != 1 {
			t.Errorf("%+v: %+v; %d on standby", req, h.look(v), d.standbys(t))
		}
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
				if got.err != nil || got.State != model.Running || !got.Boot.Cold || h.look(got.VM).Name != "a" || h.running() != 1 {
					t.Errorf("%s, %+v, %v, %d machines", got.State, got.Boot, got.err, h.running())
				}
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
			if left := h.files(); len(left) != 0 || h.running() != 0 || len(d.List()) != 0 {
				t.Errorf("left: %v, %d machines", left, h.running())
			}
		})
	}
}

// TestStandbyDies while it waits: whoever gets it is booted.
func TestStandbyDies(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withStandby(t, model.Create{})
	h.computer.End(h.computer.Running()[0].ID, vmm.Exit{Reason: vmm.ExitKilled})
	if v := d.launch(t, model.Create{Name: "a"}); !v.Boot.Cold || h.look(v).Name != "a" {
		t.Errorf("%+v", v.Boot)
	}
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
			if left := h.files(); len(left) != 0 || h.running() != 0 {
				t.Errorf("left: %v, %d machines", left, h.running())
			}
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
	if d.givenUp() != 0 || len(h.files()) != 0 {
		t.Errorf("%d given up, %v", d.givenUp(), h.files())
	}
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
			if h.running() != 0 {
				t.Errorf("%d machines", h.running())
			}
			list := d.List()
			for _, v := range list {
				if _, err := os.Stat(h.layout.VM(v.ID).Run); err == nil || v.Runtime != nil {
					t.Errorf("it is %s, and has still %+v", v.State, v.Runtime)
				}
				d.running(t, v.ID)
				if h.look(v).Name != "a" {
					t.Errorf("%+v", h.look(v))
				}
				if err := d.Delete(t.Context(), v.ID, true, nil); err != nil {
					t.Error(err)
				}
			}
			if left := h.files(); len(left) != 0 || len(list) > 1 {
				t.Errorf("left: %v", left)
			}
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
	if h.running() != before+d.standbys(t) || len(d.List()) != 1 {
		t.Errorf("%d machines, %d of them on standby", h.running(), d.standbys(t))
	}
	ids := []string{}
	for _, m := range h.computer.Running() {
		ids = append(ids, m.ID)
	}
	d.launch(t, model.Create{Name: "b"})
	if v, _ := d.Get("b"); len(ids) == 1 && !slices.Contains(ids, v.ID) {
		t.Errorf("%s was not taken", ids)
	}
}
