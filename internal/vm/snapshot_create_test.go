package vm

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestSnapshot saves a VM in each state and makes VMs from the snapshot after the VM is deleted.
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
				d.bringTo(t, v, state)
			}
			before := h.files()
			s := d.snap(t, v, "s")
			kind := model.SnapshotFull
			if state == model.Stopped || state == model.Failed {
				kind = model.SnapshotDisk
			}
			equal(t, "the snapshot's name", s.Name, "s")
			equal(t, "the name of its VM", s.VM, "a")
			equal(t, "the id of its VM", s.VMID, v.ID)
			equal(t, "its kind", s.Kind, kind)
			equal(t, "its image", s.Image, "img")
			equal(t, "its kernel", s.Kernel, "krn")
			equal(t, "its number of vCPUs", s.VCPUs, 1)
			equal(t, "its memory", s.Memory, 512*model.MiB)
			claim(t, s.Size > 0, "its size is %v", s.Size)
			claim(t, (s.Driver == "fake") == (kind == model.SnapshotFull),
				"a %s snapshot names the driver %q", kind, s.Driver)
			claim(t, (s.Pause > 0) == (state == model.Running), "it halted a VM that was %s for %v", state, s.Pause)
			claim(t, !s.Created.After(time.Now()), "it was created in the future: %v", s.Created)
			h.wantFiles(t, before)
			h.wantStored(t, 1)
			d.wantState(t, "a", state)
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
				wantMadeFrom(t, child, s)
				equal(t, "the label of "+child.Spec.Name, child.Spec.Labels["of"], "parent")
				equal(t, "the image of "+child.Spec.Name, child.Spec.ImageID, "id-of-img")
				equal(t, "the work disk's size of "+child.Spec.Name, child.Spec.WorkDiskSize, 64*model.MiB)
				h.wantOnDisk(t, child, "work of a")
				if _, err := os.Stat(h.layout.VM(child.ID).WorkDisk()); err != nil {
					t.Error(err)
				}
			}
			for _, child := range full {
				if kind == model.SnapshotDisk {
					if child.State != model.Stopped {
						t.Errorf("%s is %s, not stopped", child.Spec.Name, child.State)
					}
					continue
				}
				d.wantFork(t, child, model.VM{ID: s.VMID, Spec: model.Spec{Name: "a"}}, "work of a")
				wantOriginOf(t, child, model.FromSnapshot, s.ID)
			}
			for _, child := range disks {
				if child.State != model.Stopped {
					t.Errorf("%s is %s, not stopped", child.Spec.Name, child.State)
				}
				d.start(t, child.ID)
				h.wantGuest(t, child, "disks", 0)
				h.wantBooted(t, child, "work of a")
			}
			if _, err := d.library.Delete(t.Context(), "s"); err != nil { // while its VMs run
				t.Error(err)
			}
			h.wantStored(t, 0)
			claim(t, h.running() > 0, "the deletion of the snapshot ended the VMs that were made from it")
			if kind == model.SnapshotFull {
				d.wantFork(t, d.fork(t, full[0], model.Fork{})[0], full[0], "work of a")
			}
		})
	}
}

// TestSnapshotRefuses requests snapshots of VMs without a state to save, and under bad names.
func TestSnapshotRefuses(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a"})
	refused := func(why string) {
		t.Helper()
		_, err := d.CreateSnapshot(t.Context(), "a", "s", nil)
		wantKind(t, "the snapshot of a VM that "+why, err, fault.WrongState)
		wantHint(t, "the snapshot of a VM that "+why, err, "start")
		h.wantStored(t, 0)
	}
	refused("never started")
	h.failing("do agent", errBoom)
	d.Start(t.Context(), "a", model.Start{}, nil)
	h.failing("do agent", nil)
	refused("never came up")
	d.start(t, "a")
	d.bringTo(t, v, model.Stopped)
	if _, err := d.Set(t.Context(), "a", model.Change{Image: ptr("other")}); err != nil {
		t.Fatal(err)
	}
	refused("has not started with its new image")
	d.start(t, "a")
	if s := d.snap(t, v, "s"); s.Image != "other" {
		t.Errorf("the snapshot of a VM with another image names %s", s.Image)
	}
	if _, err := d.CreateSnapshot(t.Context(), "nobody", "s", nil); fault.KindOf(err) != fault.NotFound {
		t.Errorf("the snapshot of an unknown VM returned %v", err)
	}
	if _, err := d.CreateSnapshot(t.Context(), "a", "A b", nil); fault.KindOf(err) != fault.Invalid {
		t.Errorf("the snapshot with an invalid name returned %v", err)
	}
}

// TestSnapshotHasTheRunningSpec checks that a snapshot has the spec that the VM was started with,
// and not the changes that wait for its next start.
func TestSnapshotHasTheRunningSpec(t *testing.T) {
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
		equal(t, "the snapshot's image", s.Image, "img")
		equal(t, "the snapshot's number of vCPUs", s.VCPUs, 1)
		equal(t, "the child's image", child.Spec.ImageID, "id-of-img")
		equal(t, "the image under the child's disk", child.DiskImage, "id-of-img")
		equalLists(t, "the changes pending for the child", child.Pending, nil)
	}
}

// TestSnapshotBeforeItsWorkDisk saves a stopped VM that gets a work disk at its next start.
func TestSnapshotBeforeItsWorkDisk(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.homes = true
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.bringTo(t, v, model.Stopped)
	if _, err := d.Set(t.Context(), "a", model.Change{WorkDiskSize: ptr(64 * model.MiB)}); err != nil {
		t.Fatal(err)
	}
	s := d.snap(t, v, "s")
	child := d.restore(t, s.ID, model.Restore{})[0]
	d.start(t, child.ID)
	if _, err := os.Stat(h.layout.VM(child.ID).WorkDisk()); err != nil {
		t.Errorf("the child has no work disk: %v", err)
	}
	h.wantOnDisk(t, child, "work of a")
}

func TestSnapshotNames(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	first := d.snap(t, v, "one")
	second := d.snap(t, v, "")
	claim(t, second.Name != "", "a snapshot that was to get a random name has none")
	claim(t, second.Name != first.Name, "two snapshots have the name %q", second.Name)
	_, err := d.CreateSnapshot(t.Context(), "a", "one", nil)
	wantKind(t, "a second snapshot of the name", err, fault.Exists)
	wantHint(t, "a second snapshot of the name", err, "")
	h.wantStored(t, 2)
	list, err := d.library.List(t.Context())
	if err != nil {
		t.Error(err)
	}
	var ids []string
	for _, s := range list {
		ids = append(ids, s.ID)
	}
	equalLists(t, "the listed snapshots", ids, []string{first.ID, second.ID})
	for ref, want := range map[string]string{
		"one": first.ID, first.ID: first.ID, first.ID[:15]: first.ID, second.Name: second.ID,
	} {
		if got, err := d.library.Get(t.Context(), ref); err != nil || got.ID != want {
			t.Errorf("%q must find %s, not %+v, %v", ref, want, got, err)
		}
	}
	for _, ref := range []string{"", "none", strings.Repeat("0", 16), "../" + first.ID} {
		if _, err := d.library.Get(t.Context(), ref); fault.KindOf(err) != fault.NotFound {
			t.Errorf("looking up %q returned %v", ref, err)
		}
		if _, err := d.library.Delete(t.Context(), ref); fault.KindOf(err) != fault.NotFound {
			t.Errorf("deleting %q returned %v", ref, err)
		}
	}
	d.wantContinues(t, v)
}

// TestSnapshotsRaceForAName requests one name for several snapshots. One gets it, and nothing is
// left of the others.
func TestSnapshotsRaceForAName(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	var vms []model.VM
	for _, name := range []string{"v-1", "v-2", "v-3"} {
		vms = append(vms, d.worker(t, model.Create{Name: name}))
	}
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
	equal(t, "the number of snapshots that got the name", won, 1)
	h.wantStored(t, 1)
	for _, v := range vms {
		d.wantRunning(t, v)
	}
}

// TestSnapshotsHoldImagesAndKernels checks that snapshots hold their images and kernels, also if
// their VM is gone. If a snapshot is unreadable, nothing may be deleted.
func TestSnapshotsHoldImagesAndKernels(t *testing.T) {
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
	if err != nil {
		t.Error(err)
	}
	equalLists(t, "the users of the image", images["id-of-img"], []string{"snapshot s"})
	equalLists(t, "the users of the kernel", kernels["id-of-krn"], []string{"snapshot s"})
	if os.Getuid() != 0 { // root can read everything
		dir := filepath.Join(h.layout.Snapshots(), s.ID)
		damage(t, os.Chmod(dir, 0))
		if _, _, err := inUse(); err == nil {
			t.Error("images may be deleted although a snapshot is unreadable")
		}
		damage(t, os.Chmod(dir, 0o700))
	}
	h.setGone("id-of-img", true) // by hand
	forked, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{}, nil)
	wantNoChildren(t, forked, err, fault.NotFound)
	claim(t, forked.Children[0].Hint != "", "the child failed without a hint: %s", forked.Children[0].Error)
	h.wantFiles(t, nil)
	if _, err := d.library.Delete(t.Context(), "s"); err != nil {
		t.Error(err)
	}
	if images, kernels, err := inUse(); err != nil {
		t.Error(err)
	} else {
		claim(t, len(images)+len(kernels) == 0,
			"in use are the images %v and the kernels %v, although no snapshot is left", images, kernels)
	}
}

// TestKilledWhileSnapshotting kills the daemon at each moment of making a snapshot. The VM
// continues, and nothing is left of the snapshot.
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
			d.wantContinues(t, v)
			h.wantFiles(t, before)
			h.wantStored(t, 0)
			h.wantMachines(t, 1)
			d.snap(t, v, "s")
		})
	}
}
