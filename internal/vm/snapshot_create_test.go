package vm

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
)

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
