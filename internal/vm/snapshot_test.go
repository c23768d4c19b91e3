package vm

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/snapshot"
)

func (d *daemon) snap(t *testing.T, v model.VM, name string) model.Snapshot {
	t.Helper()
	s, err := d.CreateSnapshot(t.Context(), v.ID, name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (d *daemon) restore(t *testing.T, ref string, req model.Restore) []model.VM {
	t.Helper()
	forked, err := d.RestoreSnapshot(t.Context(), ref, req, nil)
	if err != nil {
		t.Fatal(err)
	}
	return born(t, forked)
}

// isOf looks that a VM was made of a snapshot.
func isOf(t *testing.T, v model.VM, s model.Snapshot) {
	t.Helper()
	if p := v.Parent; p == nil || p.Snapshot != s.ID || p.VM != s.VMID || p.Name != s.VM {
		t.Errorf("the parent of %s: %+v", v.Spec.Name, p)
	}
}

// TestSnapshot keeps a VM in each state and makes others from that, also when the VM is gone.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	for _, state := range []model.State{model.Running, model.Paused, model.Suspended, model.Stopped, model.Failed} {
		t.Run(string(state), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.homes = true
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a", WorkDiskSize: ptr(64 * model.MiB), Labels: map[string]string{"of": "parent"}})
			if state != model.Running {
				d.bring(t, v, state)
			}
			before := h.files()
			s := d.snap(t, v, "s")
			kind := model.SnapshotFull
			if state == model.Stopped || state == model.Failed {
				kind = model.SnapshotDisk
			}
			if s.Name != "s" || s.VM != "a" || s.VMID != v.ID || s.Kind != kind || s.Size <= 0 || s.Image != "img" || s.Kernel != "krn" || s.VCPUs != 1 || s.Memory != 512*model.MiB ||
				(s.Driver == "fake") != (kind == model.SnapshotFull) || (s.Pause > 0) != (state == model.Running) || s.Created.After(time.Now()) {
				t.Errorf("%+v", s)
			}
			if after := h.files(); !slices.Equal(before, after) || len(h.stored()) != 1 || d.state(t, "a") != state {
				t.Errorf("files before %v, after %v, %v; it is %s", before, after, h.stored(), d.state(t, "a"))
			}
			if state == model.Running {
				h.work(v, "more") // which is not in the snapshot
			}
			d.die()
			d = h.daemon()
			if err := d.Delete(t.Context(), "a", true, nil); err != nil {
				t.Fatal(err)
			}
			full := d.restore(t, "s", model.Restore{Fork: model.Fork{Count: 2}})
			disks := d.restore(t, s.ID[:8], model.Restore{Fork: model.Fork{Name: "disks"}, DisksOnly: true})
			for _, child := range append(full, disks...) {
				isOf(t, child, s)
				if child.Spec.Labels["of"] != "parent" || child.Spec.ImageID != "id-of-img" || child.Spec.WorkDiskSize != 64*model.MiB {
					t.Errorf("%+v", child.Spec)
				}
				if h.onDisk(child) != "work of a" {
					t.Errorf("%s has %q on its disk", child.Spec.Name, h.onDisk(child))
				}
				if _, err := os.Stat(h.layout.VM(child.ID).WorkDisk()); err != nil {
					t.Error(err)
				}
			}
			for _, child := range full {
				if kind == model.SnapshotDisk {
					if child.State != model.Stopped {
						t.Errorf("%s is %s", child.Spec.Name, child.State)
					}
					continue
				}
				d.isFork(t, child, model.VM{ID: s.VMID, Spec: model.Spec{Name: "a"}}, "work of a")
				if o := child.Boot.Origin; child.Boot.Cold || o == nil || o.Kind != model.FromSnapshot || o.Of != s.ID {
					t.Errorf("%s went on from %+v", child.Spec.Name, child.Boot)
				}
			}
			for _, child := range disks {
				if child.State != model.Stopped {
					t.Errorf("%s is %s", child.Spec.Name, child.State)
				}
				d.running(t, child.ID)
				if g := h.look(child); g.Forks != 0 || g.Data != "" || g.Name != "disks" {
					t.Errorf("it has not booted: %+v", g)
				}
			}
			if _, err := d.library.Delete(t.Context(), "s"); err != nil { // while VMs that were made of it run
				t.Error(err)
			}
			if len(h.stored()) != 0 || h.running() < 1 {
				t.Errorf("left: %v, %d machines", h.stored(), h.running())
			}
			if kind == model.SnapshotFull {
				d.isFork(t, d.fork(t, full[0], model.Fork{})[0], full[0], "work of a")
			}
		})
	}
}

func TestSnapshotOfNothing(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a"})
	refused := func(why string) {
		t.Helper()
		if _, err := d.CreateSnapshot(t.Context(), "a", "s", nil); fault.KindOf(err) != fault.WrongState || !strings.Contains(fault.HintOf(err), "start") {
			t.Errorf("%s: %v, hint %q", why, err, fault.HintOf(err))
		}
		if len(h.stored()) != 0 {
			t.Errorf("%s: left: %v", why, h.stored())
		}
	}
	refused("never started")
	h.failing("do agent", errBoom)
	d.Start(t.Context(), "a", model.Start{}, nil)
	h.failing("do agent", nil)
	refused("never came up")
	d.running(t, "a")
	d.bring(t, v, model.Stopped)
	if _, err := d.Set(t.Context(), "a", model.Change{Image: ptr("other")}); err != nil {
		t.Fatal(err)
	}
	refused("not yet with its image")
	d.running(t, "a")
	if s := d.snap(t, v, "s"); s.Image != "other" {
		t.Errorf("%+v", s)
	}
	if _, err := d.CreateSnapshot(t.Context(), "nobody", "s", nil); fault.KindOf(err) != fault.NotFound {
		t.Errorf("of no VM: %v", err)
	}
	if _, err := d.CreateSnapshot(t.Context(), "a", "A b", nil); fault.KindOf(err) != fault.Invalid {
		t.Errorf("under a bad name: %v", err)
	}
}

// TestSnapshotIsAsTheMachineWas: with what a running VM was started as, not with what it is to get.
func TestSnapshotIsAsTheMachineWas(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	if _, err := d.Set(t.Context(), "a", model.Change{Image: ptr("other"), VCPUs: ptr(3)}); err != nil {
		t.Fatal(err)
	}
	for _, bring := range []func(){func() {}, func() { d.suspend(t, v) }} {
		bring()
		s := d.snap(t, v, "")
		child := d.restore(t, s.Name, model.Restore{})[0]
		if s.Image != "img" || s.VCPUs != 1 || child.Spec.ImageID != "id-of-img" || child.DiskImage != "id-of-img" || len(child.Pending) != 0 {
			t.Errorf("%+v, %+v, pending %v", s, child.Spec, child.Pending)
		}
	}
}

// TestSnapshotBeforeItsWorkDisk has a stopped VM that is to have a work disk at its next start.
func TestSnapshotBeforeItsWorkDisk(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.homes = true
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.bring(t, v, model.Stopped)
	if _, err := d.Set(t.Context(), "a", model.Change{WorkDiskSize: ptr(64 * model.MiB)}); err != nil {
		t.Fatal(err)
	}
	s := d.snap(t, v, "s")
	child := d.restore(t, s.ID, model.Restore{})[0]
	d.running(t, child.ID)
	if _, err := os.Stat(h.layout.VM(child.ID).WorkDisk()); err != nil || h.onDisk(child) != "work of a" {
		t.Errorf("%v, %q on its disk", err, h.onDisk(child))
	}
}

func TestSnapshotNames(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	first := d.snap(t, v, "one")
	second := d.snap(t, v, "")
	if second.Name == "" || second.Name == "one" {
		t.Errorf("it is called %q", second.Name)
	}
	if _, err := d.CreateSnapshot(t.Context(), "a", "one", nil); fault.KindOf(err) != fault.Exists || fault.HintOf(err) == "" {
		t.Errorf("a second one of that name: %v", err)
	}
	if len(h.stored()) != 2 {
		t.Errorf("stored: %v", h.stored())
	}
	list, err := d.library.List(t.Context())
	if err != nil || len(list) != 2 || list[0].ID != first.ID || list[1].ID != second.ID {
		t.Errorf("%+v, %v", list, err)
	}
	for ref, want := range map[string]string{"one": first.ID, first.ID: first.ID, first.ID[:15]: first.ID, second.Name: second.ID} {
		if got, err := d.library.Get(t.Context(), ref); err != nil || got.ID != want {
			t.Errorf("%s: %+v, %v", ref, got, err)
		}
	}
	for _, ref := range []string{"", "none", strings.Repeat("0", 16), "../" + first.ID} {
		if _, err := d.library.Get(t.Context(), ref); fault.KindOf(err) != fault.NotFound {
			t.Errorf("%q: %v", ref, err)
		}
		if _, err := d.library.Delete(t.Context(), ref); fault.KindOf(err) != fault.NotFound {
			t.Errorf("deleting %q: %v", ref, err)
		}
	}
	d.goesOn(t, v)
}

// TestSnapshotsRaceForAName: one gets it, and nothing is left of the other.
func TestSnapshotsRaceForAName(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	vms := []model.VM{d.worker(t, model.Create{Name: "v-1"}), d.worker(t, model.Create{Name: "v-2"}), d.worker(t, model.Create{Name: "v-3"})}
	errs := make([]error, len(vms))
	var wg sync.WaitGroup
	for i, v := range vms {
		wg.Go(func() { _, errs[i] = d.CreateSnapshot(t.Context(), v.ID, "s", nil) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		switch fault.KindOf(err) {
		case "":
			won++
		case fault.Exists:
		default:
			t.Error(err)
		}
	}
	if won != 1 || len(h.stored()) != 1 {
		t.Errorf("%d have won, %v", won, h.stored())
	}
	for _, v := range vms {
		if d.state(t, v.ID) != model.Running || h.look(v).Frozen || h.computer.Halted(v.ID) {
			t.Errorf("%s does not go on", v.Spec.Name)
		}
	}
}

// TestRestoreInto has a VM in each state become what a snapshot keeps.
func TestRestoreInto(t *testing.T) {
	t.Parallel()
	for _, state := range []model.State{model.Running, model.Paused, model.Suspended, model.Stopped, model.Failed, model.Broken} {
		for _, disksOnly := range []bool{false, true} {
			name := string(state)
			if disksOnly {
				name += " disks"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				h.homes = true
				d := h.daemon()
				of := d.worker(t, model.Create{Name: "of", VCPUs: ptr(2)})
				s := d.snap(t, of, "s")
				v := d.worker(t, model.Create{
					Name: "a", Image: "other", WorkDiskSize: ptr(64 * model.MiB), Labels: map[string]string{"stays": "1"}, Remove: model.RemoveOnStop,
				})
				if state == model.Stopped || state == model.Failed {
					e, err := d.find(v.ID)
					if err != nil {
						t.Fatal(err)
					}
					if err := d.rewrite(t.Context(), e, func(v *model.VM) { v.Spec.Remove = model.RemoveNever }); err != nil {
						t.Fatal(err)
					}
				}
				if state != model.Running {
					d.bring(t, v, state)
				}
				policy, _ := d.Get("a")
				forked, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a", DisksOnly: disksOnly, Force: true}, nil)
				if err != nil {
					t.Fatal(err)
				}
				got := born(t, forked)[0]
				isOf(t, got, s)
				if got.ID != v.ID || got.Spec.Name != "a" || got.Spec.Labels["stays"] != "1" || got.Spec.Remove != policy.Spec.Remove {
					t.Errorf("it is another VM: %+v", got.Spec)
				}
				if got.Spec.VCPUs != 2 || got.Spec.ImageID != "id-of-img" || got.DiskImage != "id-of-img" || got.Spec.WorkDiskSize != 0 {
					t.Errorf("it is the VM that it was: %+v", got.Spec)
				}
				if _, err := os.Stat(h.layout.VM(v.ID).WorkDisk()); err == nil {
					t.Error("it has a work disk that the snapshot does not have")
				}
				if disksOnly {
					if got.State != model.Stopped || got.LastError != nil || h.running() != 1 {
						t.Errorf("it is %s, %d machines", got.State, h.running())
					}
					d.running(t, "a")
				} else {
					if got.State != model.Running || h.look(got).Data != "work of of" || h.look(got).Name != "a" {
						t.Errorf("it is %s, %+v", got.State, h.look(got))
					}
				}
				if h.onDisk(got) != "work of of" || h.running() != 2 {
					t.Errorf("it has %q on its disk; %d machines", h.onDisk(got), h.running())
				}
				d.nothingSaved(t)
				d.snap(t, got, "again")
				d.restore(t, "again", model.Restore{Fork: model.Fork{Name: "child"}})
				d.isFork(t, d.fork(t, of, model.Fork{})[0], of, "work of of")
			})
		}
	}
}

// TestRestoreSparesTheLiving restores into a VM in each state. What is not at rest would lose more than its disks.
func TestRestoreSparesTheLiving(t *testing.T) {
	t.Parallel()
	for _, state := range []model.State{model.Running, model.Paused, model.Suspended, model.Broken} {
		t.Run(string(state), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.snap(t, v, "s")
			h.work(v, "more")
			if state != model.Running {
				d.bring(t, v, state)
			}
			before := append(h.files(), h.stored()...)
			_, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a"}, nil)
			if fault.KindOf(err) != fault.WrongState || !strings.Contains(fault.HintOf(err), "--force") {
				t.Errorf("got %v, hint %q", err, fault.HintOf(err))
			}
			if after := append(h.files(), h.stored()...); !slices.Equal(before, after) || d.state(t, "a") != state || h.onDisk(v) != "more" {
				t.Errorf("it is %s with %q; before %v, after %v", d.state(t, "a"), h.onDisk(v), before, after)
			}
			if got := d.restore(t, "s", model.Restore{Into: "a", Force: true})[0]; h.worked(got) != "work of a" {
				t.Errorf("by force it has %q", h.worked(got))
			}
		})
	}
}

// TestRestoreLooksUnderTheLock: what comes first counts, be it a start or another restore, and not what was when the restore was asked for.
func TestRestoreLooksUnderTheLock(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]func(context.Context, *daemon) error{
		"start": func(ctx context.Context, d *daemon) error {
			_, err := d.Start(ctx, "a", model.Start{}, nil)
			return err
		},
		"restore": func(ctx context.Context, d *daemon) error {
			_, err := d.RestoreSnapshot(ctx, "s", model.Restore{Into: "a"}, nil)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			d.snap(t, d.worker(t, model.Create{Name: "of"}), "s")
			v := d.worker(t, model.Create{Name: "a"})
			d.bring(t, v, model.Stopped)
			e, err := d.find("a")
			if err != nil {
				t.Fatal(err)
			}
			began := h.called("do agent")
			release := h.hanging("do agent")
			var firstErr, secondErr error
			var wg sync.WaitGroup
			wg.Go(func() { firstErr = first(t.Context(), d) })
			waitFor(t, func() bool { return h.called("do agent") > began })
			wg.Go(func() { _, secondErr = d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a"}, nil) })
			waitFor(t, func() bool { return e.lock.queue() == 1 })
			h.work(v, "more")
			release()
			wg.Wait()
			if firstErr != nil || fault.KindOf(secondErr) != fault.WrongState {
				t.Errorf("the first: %v; the second: %v", firstErr, secondErr)
			}
			if got := d.state(t, "a"); got != model.Running || h.onDisk(v) != "more" || h.running() != 2 {
				t.Errorf("it is %s with %q; %d machines", got, h.onDisk(v), h.running())
			}
		})
	}
}

// TestRestoreIntoRefuses before anything changes.
func TestRestoreIntoRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(*testing.T, *host, model.Snapshot)
		want  fault.Kind
	}{
		"no image":  {func(_ *testing.T, h *host, _ model.Snapshot) { h.delete("id-of-img", true) }, fault.NotFound},
		"no kernel": {func(_ *testing.T, h *host, _ model.Snapshot) { h.delete("id-of-krn", true) }, fault.NotFound},
		"damaged memory": {func(t *testing.T, h *host, s model.Snapshot) {
			damages[2].do(t, filepath.Join(h.layout.Snapshots(), s.ID, "memory"))
		}, fault.Invalid},
		"damaged disk": {func(t *testing.T, h *host, s model.Snapshot) {
			damages[2].do(t, filepath.Join(h.layout.Snapshots(), s.ID, "system.ext4"))
		}, fault.Invalid},
		"no snapshot": {func(t *testing.T, h *host, s model.Snapshot) {
			damage(t, os.RemoveAll(filepath.Join(h.layout.Snapshots(), s.ID)))
		}, fault.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			s := d.snap(t, d.worker(t, model.Create{Name: "of"}), "s")
			v := d.worker(t, model.Create{Name: "a", Image: "other", Kernel: "other"})
			c.spoil(t, h, s)
			before := append(h.files(), h.stored()...)
			if _, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a", Force: true}, nil); fault.KindOf(err) != c.want {
				t.Errorf("got %v", err)
			}
			if after := append(h.files(), h.stored()...); !slices.Equal(before, after) {
				t.Errorf("before %v, after %v", before, after)
			}
			if got, _ := d.Get("a"); got.State != model.Running || got.Spec.Image != "other" || got.Parent != nil || h.worked(v) != "work of a" {
				t.Errorf("%+v, with %q", got, h.worked(v))
			}
		})
	}
}

// TestRestoreOnAnotherMachine has a VMM of another version: the memory is refused before anything changes, the disks are of use.
func TestRestoreOnAnotherMachine(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.snap(t, v, "s")
	d.bring(t, v, model.Stopped)
	d.running(t, "a")
	h.work(v, "more")
	suspended := d.worker(t, model.Create{Name: "asleep"})
	d.suspend(t, suspended)
	d.die()
	h.version = "2.0"
	d = h.daemon()
	if _, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a", Force: true}, nil); fault.KindOf(err) != fault.Unsupported || !strings.Contains(fault.HintOf(err), "disks") {
		t.Errorf("in place: %v, hint %q", err, fault.HintOf(err))
	}
	if d.state(t, "a") != model.Running || h.worked(v) != "more" {
		t.Errorf("it is %s with %q", d.state(t, "a"), h.worked(v))
	}
	before := h.files()
	forked, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{}, nil)
	if err != nil || forked.Children[0].VM != nil || forked.Children[0].Kind != string(fault.Unsupported) || forked.Children[0].Hint == "" {
		t.Errorf("as a new VM: %+v, %v", forked, err)
	}
	if after := h.files(); !slices.Equal(before, after) {
		t.Errorf("before %v, after %v", before, after)
	}
	child := d.restore(t, "s", model.Restore{DisksOnly: true})[0]
	d.running(t, child.ID)
	if h.onDisk(child) != "work of a" {
		t.Errorf("%q on its disk", h.onDisk(child))
	}
	if got, err := d.Resume(t.Context(), "asleep", nil); fault.KindOf(err) != fault.Unsupported || got.State != model.Suspended || !strings.Contains(fault.HintOf(err), "kill") {
		t.Errorf("resuming: %s, %v, hint %q", got.State, err, fault.HintOf(err))
	}
}

func TestRestoreRefusesNonsense(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.snap(t, v, "s")
	for name, c := range map[string]struct {
		req  model.Restore
		want fault.Kind
	}{
		"into a running one": {model.Restore{Into: "a"}, fault.WrongState},
		"into nobody":        {model.Restore{Into: "nobody"}, fault.NotFound},
		"into many":          {model.Restore{Into: "a", Fork: model.Fork{Count: 2}}, fault.Invalid},
		"into another name":  {model.Restore{Into: "a", Fork: model.Fork{Name: "b"}}, fault.Invalid},
		"into with a policy": {model.Restore{Into: "a", Fork: model.Fork{Remove: model.RemoveOnStop}}, fault.Invalid},
		"a bad policy":       {model.Restore{Fork: model.Fork{Remove: "soon"}}, fault.Invalid},
		"a bad name":         {model.Restore{Fork: model.Fork{Name: "A b"}}, fault.Invalid},
	} {
		if _, err := d.RestoreSnapshot(t.Context(), "s", c.req, nil); fault.KindOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(d.List()) != 1 || h.worked(v) != "work of a" {
		t.Errorf("%v", d.List())
	}
}

// TestRestoredDisksSurviveAFailedStart: they are the user's, although the VM has never run.
func TestRestoredDisksSurviveAFailedStart(t *testing.T) {
	t.Parallel()
	for name, restore := range map[string]func(*testing.T, *daemon) model.VM{
		"new": func(t *testing.T, d *daemon) model.VM {
			return d.restore(t, "s", model.Restore{DisksOnly: true, Fork: model.Fork{Name: "x"}})[0]
		},
		"into": func(t *testing.T, d *daemon) model.VM {
			d.create(t, model.Create{Name: "x"})
			return d.restore(t, "s", model.Restore{DisksOnly: true, Into: "x"})[0]
		},
		"into, with memory": func(t *testing.T, d *daemon) model.VM {
			v := d.create(t, model.Create{Name: "x"})
			d.failing("do agent", errBoom)
			if _, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "x"}, nil); !errors.Is(err, errBoom) {
				t.Errorf("got %v", err)
			}
			d.failing("do agent", nil)
			return v
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.homes = true
			d := h.daemon()
			d.snap(t, d.worker(t, model.Create{Name: "of", WorkDiskSize: ptr(64 * model.MiB)}), "s")
			v := restore(t, d)
			work, err := os.Stat(h.layout.VM(v.ID).WorkDisk())
			if err != nil {
				t.Fatal(err)
			}
			h.failing("do assume", errBoom)
			if got, err := d.Start(t.Context(), "x", model.Start{}, nil); !errors.Is(err, errBoom) || got.State != model.Failed {
				t.Errorf("%s, %v", got.State, err)
			}
			dead := d
			d = d.killedIn("do post-start/two", func(ctx context.Context) {
				h.failing("do assume", nil)
				dead.Start(ctx, "x", model.Start{}, nil)
			})
			if d.state(t, "x") != model.Failed {
				t.Errorf("it is %s", d.state(t, "x"))
			}
			d.running(t, "x")
			if again, err := os.Stat(h.layout.VM(v.ID).WorkDisk()); err != nil || again.Size() != work.Size() || h.onDisk(v) != "work of of" {
				t.Errorf("%v, %q on its disk", err, h.onDisk(v))
			}
		})
	}
}

// TestChildrenOfASnapshotFail: nothing is left of them, and nothing is missing from the snapshot.
func TestChildrenOfASnapshotFail(t *testing.T) {
	t.Parallel()
	for _, hook := range childHooks {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			s := d.snap(t, v, "s")
			d.bring(t, v, model.Stopped)
			before := append(h.files(), h.stored()...)
			h.failing(hook, errBoom)
			forked, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Fork: model.Fork{Count: 2}}, nil)
			if err != nil || forked.Children[0].VM != nil || forked.Children[1].VM != nil || forked.Children[0].Kind != string(fault.Internal) {
				t.Errorf("%+v, %v", forked, err)
			}
			h.failing(hook, nil)
			if after := append(h.files(), h.stored()...); !slices.Equal(before, after) || h.running() != 0 || len(d.List()) != 1 {
				t.Errorf("before %v, after %v; %d machines", before, after, h.running())
			}
			child := d.restore(t, "s", model.Restore{})[0]
			isOf(t, child, s)
			d.isFork(t, child, v, "work of a")
		})
	}
}

// TestDamagedSnapshot damages each file in each way: nothing is made of it, and it can be deleted.
func TestDamagedSnapshot(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"meta.json", "memory", "device", "system.ext4"} {
		for _, how := range damages {
			t.Run(file+" "+how.name, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				s := d.snap(t, v, "s")
				good := d.snap(t, v, "good")
				how.do(t, filepath.Join(h.layout.Snapshots(), s.ID, file))
				before := append(h.files(), h.stored()...)
				for _, req := range []model.Restore{{}, {Into: "a", Force: true}, {DisksOnly: true}} {
					for _, ref := range []string{s.ID, "s"} {
						want := fault.Invalid
						if ref == "s" && file == "meta.json" {
							want = fault.NotFound // nobody knows any more what it was called
						}
						if _, err := d.RestoreSnapshot(t.Context(), ref, req, nil); fault.KindOf(err) != want {
							t.Errorf("%+v of %q: %v", req, ref, err)
						}
					}
				}
				if after := append(h.files(), h.stored()...); !slices.Equal(before, after) || len(d.List()) != 1 {
					t.Errorf("before %v, after %v", before, after)
				}
				if err := d.References(func(images, _ map[string][]string) error {
					if !slices.Contains(images["id-of-img"], "snapshot good") {
						t.Errorf("in use: %v", images)
					}
					return nil
				}); err != nil {
					t.Error(err)
				}
				want := s
				if file == "meta.json" {
					want = model.Snapshot{ID: s.ID}
				}
				list, err := d.library.List(t.Context())
				if i := slices.IndexFunc(list, func(one model.Snapshot) bool { return one.ID == s.ID }); err != nil || len(list) != 2 || i < 0 {
					t.Errorf("%+v, %v", list, err)
				} else {
					got := list[i]
					want.Damaged, want.Size = got.Damaged, got.Size
					if got.Damaged == "" || got.Size <= 0 || got != want {
						t.Errorf("listed as %+v, not %+v", got, want)
					}
					for _, ref := range []string{got.ID, got.ID[:15], got.Name} {
						if shown, err := d.library.Get(t.Context(), ref); ref != "" && (err != nil || shown != got) {
							t.Errorf("%q shown as %+v, %v", ref, shown, err)
						}
					}
				}
				if file != "meta.json" {
					if _, err := d.CreateSnapshot(t.Context(), "a", "s", nil); fault.KindOf(err) != fault.Exists {
						t.Errorf("another one of its name: %v", err)
					}
				}
				if _, err := d.library.Get(t.Context(), ""); fault.KindOf(err) != fault.NotFound {
					t.Errorf("without a name: %v", err)
				}
				if rows, err := d.Usage(t.Context()); err != nil || !slices.ContainsFunc(rows, func(r model.UsageRow) bool {
					return r.Kind == model.UsageSnapshot && r.Name == cmp.Or(want.Name, s.ID)
				}) {
					t.Errorf("in use: %+v, %v", rows, err)
				}
				if _, err := d.library.Delete(t.Context(), cmp.Or(want.Name, s.ID)); err != nil {
					t.Error(err)
				}
				if list, err := d.library.List(t.Context()); err != nil || len(list) != 1 || list[0].ID != good.ID || len(h.stored()) != 1 {
					t.Errorf("%+v, %v, %v", list, err, h.stored())
				}
			})
		}
	}
}

// TestSnapshotsHoldWhatTheyNeed, also of a VM that is gone, and as long as it cannot be told what they need.
func TestSnapshotsHoldWhatTheyNeed(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	s := d.snap(t, v, "s")
	if err := d.Delete(t.Context(), "a", true, nil); err != nil {
		t.Fatal(err)
	}
	inUse := func() (images, kernels map[string][]string, err error) {
		err = d.References(func(i, k map[string][]string) error { images, kernels = i, k; return nil })
		return images, kernels, err
	}
	images, kernels, err := inUse()
	if err != nil || !slices.Equal(images["id-of-img"], []string{"snapshot s"}) || !slices.Equal(kernels["id-of-krn"], []string{"snapshot s"}) {
		t.Errorf("%v, %v, %v", images, kernels, err)
	}
	if os.Getuid() != 0 { // whom nothing is hidden from
		dir := filepath.Join(h.layout.Snapshots(), s.ID)
		damage(t, os.Chmod(dir, 0))
		if _, _, err := inUse(); err == nil {
			t.Error("what an unreadable snapshot needs may be deleted")
		}
		damage(t, os.Chmod(dir, 0o700))
	}
	h.delete("id-of-img", true) // by hand
	forked, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{}, nil)
	if err != nil || forked.Children[0].VM != nil || forked.Children[0].Kind != string(fault.NotFound) || forked.Children[0].Hint == "" || len(h.files()) != 0 {
		t.Errorf("%+v, %v, %v", forked, err, h.files())
	}
	if _, err := d.library.Delete(t.Context(), "s"); err != nil {
		t.Error(err)
	}
	if images, kernels, err := inUse(); err != nil || len(images)+len(kernels) != 0 {
		t.Errorf("%v, %v, %v", images, kernels, err)
	}
}

// TestHostileSnapshot has descriptions that are well formed and lie.
func TestHostileSnapshot(t *testing.T) {
	t.Parallel()
	for name, lie := range map[string]func(*snapshot.Meta){
		"no fingerprint":  func(m *snapshot.Meta) { m.Fingerprint = "" },
		"another machine": func(m *snapshot.Meta) { m.Fingerprint = "x" },
		"no CPUs":         func(m *snapshot.Meta) { m.Spec.VCPUs = 0 },
		"less memory":     func(m *snapshot.Meta) { m.Spec.Memory = 256 * model.MiB },
		"a work disk":     func(m *snapshot.Meta) { m.Spec.WorkDiskSize = 64 * model.MiB },
		"a bad policy":    func(m *snapshot.Meta) { m.Spec.Remove = "soon" },
		"no label":        func(m *snapshot.Meta) { m.Extra = []byte(`"x"`) },
		"no image":        func(m *snapshot.Meta) { m.Spec.ImageID = "none" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.delete("none", true)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			s := d.snap(t, v, "s")
			path := filepath.Join(h.layout.Snapshots(), s.ID)
			snap, err := snapshot.Open(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			meta := snap.Meta()
			lie(&meta)
			draft, err := snapshot.Create(path + "-lies")
			if err != nil {
				t.Fatal(err)
			}
			memory, err := draft.Memory()
			damage(t, err)
			damage(t, copyFile(t.Context(), snap.OpenMemory, memory))
			device, err := os.OpenFile(draft.Device(), os.O_CREATE|os.O_WRONLY, 0o600)
			damage(t, err)
			damage(t, errors.Join(copyFile(t.Context(), snap.OpenDevice, device), device.Close()))
			from, _ := snap.DiskPath(machine.SystemDisk)
			damage(t, draft.CloneDisk(t.Context(), machine.SystemDisk, from))
			_, err = draft.Commit(t.Context(), meta)
			damage(t, err)
			damage(t, snapshot.Remove(path))
			damage(t, os.Rename(path+"-lies", path))
			before := h.files()
			forked, err := d.RestoreSnapshot(t.Context(), s.ID, model.Restore{}, nil)
			if err == nil && forked.Children[0].VM != nil {
				t.Errorf("it was believed: %+v", forked.Children[0].VM)
			}
			if _, err := d.RestoreSnapshot(t.Context(), s.ID, model.Restore{Into: "a", Force: true}, nil); err == nil {
				t.Error("it was believed for a VM that there is")
			}
			if after := h.files(); !slices.Equal(before, after) || len(d.List()) != 1 || d.state(t, "a") != model.Running || h.worked(v) != "work of a" {
				t.Errorf("before %v, after %v", before, after)
			}
			if _, err := d.library.Delete(t.Context(), s.ID); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestExportAndImport takes a snapshot to another host.
func TestExportAndImport(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.snap(t, v, "s")
	var stream bytes.Buffer
	if err := d.library.Export(t.Context(), "s", &stream, nil); err != nil {
		t.Fatal(err)
	}
	there := newHost(t)
	there.file = h.file // the same kernel
	d = there.daemon()
	for i, want := range []string{"s", "named", ""} { // its own name, one that was asked for, and a random one, since its own is taken by now
		name := want
		if i == 0 {
			name = ""
		}
		s, err := d.library.Import(t.Context(), bytes.NewReader(stream.Bytes()), name, nil)
		if err != nil || want != "" && s.Name != want || s.Name == "" || i == 2 && s.Name == "s" {
			t.Fatalf("%+v, %v", s, err)
		}
		child := d.restore(t, s.Name, model.Restore{})[0]
		isOf(t, child, s)
		if there.worked(child) != "work of a" {
			t.Errorf("it has %q", there.worked(child))
		}
	}
	if _, err := d.library.Import(t.Context(), bytes.NewReader(stream.Bytes()), "s", nil); fault.KindOf(err) != fault.Exists {
		t.Errorf("under a name that is taken: %v", err)
	}
	if _, err := d.library.Import(t.Context(), bytes.NewReader(stream.Bytes()[:stream.Len()/2]), "", nil); err == nil {
		t.Error("half of it was taken in")
	}
	if len(there.stored()) != 3 {
		t.Errorf("stored: %v", there.stored())
	}
}

// TestKilledWhileSnapshotting kills the daemon at each moment of making a snapshot: the VM goes on, and nothing is left of the snapshot.
func TestKilledWhileSnapshotting(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"sync", "freeze", "froze", "save", "still", "thaw", "shape"} {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			before := h.files()
			dead := d
			d = d.killedIn(hook, func(ctx context.Context) { dead.CreateSnapshot(ctx, "a", "s", nil) })
			d.goesOn(t, v)
			if after := h.files(); !slices.Equal(before, after) || len(h.stored()) != 0 || h.running() != 1 {
				t.Errorf("files before %v, after %v, %v", before, after, h.stored())
			}
			d.snap(t, v, "s")
		})
	}
}

// TestKilledWhileRestoringInto kills the daemon at each moment of a restore in place: nothing leaks, no disk is used with another image than its own, and
// the restore can be done again.
func TestKilledWhileRestoringInto(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"shape", "signal", "undo one", "store stopped", "store starting", "restore", "do vmm", "do assume", "store running"} {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			of := d.worker(t, model.Create{Name: "of"})
			d.snap(t, of, "s")
			v := d.worker(t, model.Create{Name: "a", Image: "other"})
			before := h.files()
			dead := d
			d = d.killedIn(hook, func(ctx context.Context) { dead.RestoreSnapshot(ctx, "s", model.Restore{Into: "a", Force: true}, nil) })
			got, err := d.Get("a")
			if err != nil {
				t.Fatal(err)
			}
			text := h.onDisk(got)
			if got.DiskImage == "id-of-img" && text != "work of of" || got.DiskImage == "other" && text != "work of a" {
				t.Errorf("a disk with %q is said to be of image %q", text, got.DiskImage)
			}
			if len(h.stored()) != 1 {
				t.Errorf("stored: %v", h.stored())
			}
			if got.State == model.Running {
				if after := h.files(); h.worked(v) != "work of a" || !slices.Equal(before, after) {
					t.Errorf("before %v, after %v", before, after)
				}
			} else if after := h.files(); slices.Contains(after, h.layout.VM(v.ID).Run) {
				t.Errorf("left: %v", after)
			}
			again := d.restore(t, "s", model.Restore{Into: "a", Force: true})[0]
			if again.State != model.Running || h.worked(again) != "work of of" || h.running() != 2 {
				t.Errorf("%s, %q, %d machines", again.State, h.worked(again), h.running())
			}
			d.goesOn(t, of)
		})
	}
}

// workOn writes to a VM's work disk, and workIn returns what was written.
func (h *host) workOn(v model.VM, text string) {
	h.t.Helper()
	f, err := os.OpenFile(h.layout.VM(v.ID).WorkDisk(), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte(text+"\n"), workPlace)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		h.t.Error(err)
	}
}

func (h *host) workIn(v model.VM) string {
	h.t.Helper()
	f, err := os.Open(h.layout.VM(v.ID).WorkDisk())
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	text := make([]byte, 100)
	if err == nil {
		_, err = f.ReadAt(text, workPlace)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		h.t.Error(err)
	}
	text, _, _ = bytes.Cut(text, []byte{'\n'})
	return string(text)
}

// TestRestoreIntoIsAllOrNothing kills the daemon at every single moment of a restore in place. Afterwards the VM has its own disks or the snapshot's, never
// one of each, and its record says which.
func TestRestoreIntoIsAllOrNothing(t *testing.T) {
	t.Parallel()
	for name, homes := range map[string]struct{ of, a bool }{"two disks": {true, true}, "one less": {false, true}, "one more": {true, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			size := func(has bool) *model.Bytes { return ptr(map[bool]model.Bytes{true: 64 * model.MiB}[has]) }
			var seen []string
			outcomes := map[string]int{}
			for n := 1; ; n++ {
				h := newHost(t)
				h.homes = true
				d := h.daemon()
				of := d.worker(t, model.Create{Name: "of", WorkDiskSize: size(homes.of)})
				v := d.worker(t, model.Create{Name: "a", Image: "other", WorkDiskSize: size(homes.a)})
				home := map[string]string{"of": "", "a": ""}
				for _, one := range []model.VM{of, v} {
					if one.Spec.WorkDiskSize > 0 {
						home[one.Spec.Name] = "home of " + one.Spec.Name
						h.workOn(one, home[one.Spec.Name])
					}
				}
				d.snap(t, of, "s")
				dead := d
				hook, d := d.killedAt(n, func(ctx context.Context) {
					dead.RestoreSnapshot(ctx, "s", model.Restore{Into: "a", Force: true}, h.reporter())
				})
				seen = append(seen, hook)
				got, err := d.Get("a")
				if err != nil {
					t.Fatal(err)
				}
				whose := map[string]string{"id-of-img": "of", "id-of-other": "a"}[got.DiskImage]
				outcomes[whose]++
				if system, work := h.onDisk(got), h.workIn(got); system != "work of "+whose || work != home[whose] || got.Spec.ImageID != got.DiskImage ||
					(got.Spec.WorkDiskSize > 0) != (work != "") || (got.Parent != nil) != (whose == "of") || len(got.Restoring) != 0 {
					t.Errorf("killed at %d, %s: it has %q and %q on its disks, and is %+v", n, hook, system, work, got)
				}
				if _, err := os.Stat(h.layout.VM(v.ID).Restored()); err == nil || len(h.stored()) != 1 {
					t.Errorf("killed at %d, %s: left: %v, %v", n, hook, h.files(), h.stored())
				}
				d.running(t, "a")
				if h.onDisk(got) != "work of "+whose || h.workIn(got) != home[whose] {
					t.Errorf("killed at %d, %s: started, it has %q and %q", n, hook, h.onDisk(got), h.workIn(got))
				}
				again := d.restore(t, "s", model.Restore{Into: "a", Force: true})[0]
				if h.worked(again) != "work of of" || h.workIn(again) != home["of"] || h.running() != 2 {
					t.Errorf("killed at %d, %s: restored again, it has %q and %q", n, hook, h.worked(again), h.workIn(again))
				}
				d.die()
				if hook == "" {
					break
				}
			}
			if outcomes["a"] == 0 || outcomes["of"] == 0 || !slices.Contains(seen, "report done place system") || !slices.Contains(seen, "report started place work") {
				t.Errorf("%v, killed at %q", outcomes, seen)
			}
		})
	}
}

// TestUnfinishedRestore has a disk that cannot be brought to its place for a while: the VM is of no use until it can, and has both disks then.
func TestUnfinishedRestore(t *testing.T) {
	t.Parallel()
	for _, restarted := range []bool{false, true} {
		h := newHost(t)
		h.homes = true
		d := h.daemon()
		of := d.worker(t, model.Create{Name: "of", WorkDiskSize: ptr(64 * model.MiB)})
		h.workOn(of, "home of of")
		d.snap(t, of, "s")
		v := d.worker(t, model.Create{Name: "a", Image: "other"})
		inTheWay := filepath.Join(h.layout.VM(v.ID).WorkDisk(), "folder")
		damage(t, os.MkdirAll(inTheWay, 0o700))
		if _, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a", Force: true}, nil); err == nil {
			t.Fatal("it was restored")
		}
		h.delete("id-of-img", true) // which the record names by now
		if restarted {
			d.die()
			d = h.daemon()
		}
		for range 2 {
			if _, err := d.Start(t.Context(), "a", model.Start{}, nil); err == nil || !strings.Contains(err.Error(), "work") {
				t.Errorf("restarted %v: it was started with half of its disks: %v", restarted, err)
			}
		}
		h.delete("id-of-img", false)
		damage(t, os.RemoveAll(filepath.Dir(inTheWay)))
		d.running(t, "a")
		if h.onDisk(v) != "work of of" || h.workIn(v) != "home of of" {
			t.Errorf("restarted %v: it has %q and %q", restarted, h.onDisk(v), h.workIn(v))
		}
		if got, _ := d.Get("a"); len(got.Restoring) != 0 || got.DiskImage != "id-of-img" {
			t.Errorf("restarted %v: %+v", restarted, got)
		}
		d.nothingSaved(t)
		d.die()
	}
}

// TestRestoreThatCannotBeRecorded leaves the VM what it was, but for its machine.
func TestRestoreThatCannotBeRecorded(t *testing.T) {
	t.Parallel()
	for _, leftTo := range []string{"the same daemon", "the next daemon"} {
		h := newHost(t)
		d := h.daemon()
		d.snap(t, d.worker(t, model.Create{Name: "of"}), "s")
		v := d.worker(t, model.Create{Name: "a", Image: "other"})
		d.bring(t, v, model.Stopped)
		before := h.files()
		h.failing("store stopped", errBoom)
		if _, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a"}, nil); !errors.Is(err, errBoom) {
			t.Errorf("got %v", err)
		}
		h.failing("store stopped", nil)
		if leftTo == "the next daemon" {
			d.die()
			d = h.daemon()
			if after := h.files(); !slices.Equal(before, after) {
				t.Errorf("before %v, after %v", before, after)
			}
		}
		if got, _ := d.Get("a"); got.DiskImage != "id-of-other" || got.Spec.Image != "other" || h.onDisk(v) != "work of a" {
			t.Errorf("%s: %+v with %q", leftTo, got, h.onDisk(v))
		}
		d.running(t, "a")
		if got := d.restore(t, "s", model.Restore{Into: "a", Force: true})[0]; h.worked(got) != "work of of" {
			t.Errorf("%s: it has %q", leftTo, h.worked(got))
		}
		d.die()
	}
}

// TestSnapshotOnAFullDisk leaves nothing, and whatever was there.
func TestSnapshotOnAFullDisk(t *testing.T) {
	h := newHost(t)
	fill, free := h.small(h.layout.State, 64*model.MiB)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	h.litter(v, 4*model.MiB)
	fill(model.MiB)
	_, err := d.CreateSnapshot(t.Context(), "a", "s", nil)
	isFull(t, err)
	d.goesOn(t, v)
	free()
	d.snap(t, v, "s")
	other := d.worker(t, model.Create{Name: "other", Image: "other"})
	before := append(h.files(), h.stored()...)
	fill(model.MiB)
	_, err = d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "other", Force: true}, nil)
	isFull(t, err)
	forked, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{}, nil)
	if err != nil || forked.Children[0].VM != nil || forked.Children[0].Kind != string(fault.Unavailable) {
		t.Errorf("%+v, %v", forked, err)
	}
	if after := append(h.files(), h.stored()...); !slices.Equal(before, after) || d.state(t, "other") != model.Running || h.worked(other) != "work of other" {
		t.Errorf("before %v, after %v", before, after)
	}
	free()
	if got := d.restore(t, "s", model.Restore{Into: "other", Force: true})[0]; h.worked(got) != "work of a" {
		t.Errorf("it has %q", h.worked(got))
	}
}

// TestKilledInAFirstStart restores a snapshot into a VM that has never run, and kills the daemon as it starts: the VM stays, as it is nobody's child.
func TestKilledInAFirstStart(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	d.worker(t, model.Create{Name: "a"})
	if _, err := d.CreateSnapshot(t.Context(), "a", "s", nil); err != nil {
		t.Fatal(err)
	}
	v, dead := d.create(t, model.Create{Name: "b"}), d
	d = d.killedIn("restore", func(ctx context.Context) { dead.RestoreSnapshot(ctx, "s", model.Restore{Into: "b"}, nil) })
	if _, err := d.Get(v.ID); err != nil {
		t.Fatal(err)
	}
	d.running(t, "b")
	if got := h.onDisk(v); got != "work of a" {
		t.Errorf("it has %q on its disk", got)
	}
}
