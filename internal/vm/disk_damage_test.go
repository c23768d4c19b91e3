package vm

import (
	"os"
	"slices"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/paths"
)

// TestStartWithoutItsDisks checks that no start replaces a disk that a VM has had, and that the VM
// starts with its work once the disk is back.
func TestStartWithoutItsDisks(t *testing.T) {
	t.Parallel()
	damaged := map[string]struct {
		do   func(t *testing.T, path string)
		want fault.Kind
	}{
		"missing":   {func(t *testing.T, path string) { damage(t, os.Remove(path)) }, fault.Damaged},
		"empty":     {func(t *testing.T, path string) { damage(t, os.Truncate(path, 0)) }, fault.Damaged},
		"cut off":   {func(t *testing.T, path string) { damage(t, os.Truncate(path, 40<<20)) }, fault.Damaged},
		"no access": {func(t *testing.T, path string) { damage(t, os.Chmod(path, 0)) }, fault.Denied},
	}
	for file, pathOf := range map[string]func(paths.VM) string{"system": paths.VM.SystemDisk, "work": paths.VM.WorkDisk} {
		for how, by := range damaged {
			t.Run(file+" "+how, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				h.homes = true
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a", WorkDiskSize: ptr(64 * model.MiB)})
				h.writeWorkDisk(v, "home of a")
				if _, err := d.Stop(t.Context(), "a", nil, nil); err != nil {
					t.Fatal(err)
				}
				path := pathOf(h.layout.VM(v.ID))
				info, err := os.Stat(path)
				damage(t, err)
				damage(t, os.Rename(path, path+".aside"))
				damage(t, os.WriteFile(path, nil, 0o600))
				damage(t, os.Truncate(path, info.Size()))
				by.do(t, path)
				before := h.files()
				for range 2 {
					_, err = d.Start(t.Context(), "a", model.Start{}, nil)
					claim(t, fault.KindOf(err) == by.want, "a start returned %v of kind %q", err, fault.KindOf(err))
					claim(t, err != nil && strings.Contains(err.Error(), path), "the error does not name %s: %v", path, err)
					claim(t, fault.HintOf(err) != "", "there is no hint with %v", err)
				}
				claim(t, slices.Equal(before, h.files()), "the start changed the files %v to %v", before, h.files())
				damage(t, os.Rename(path+".aside", path))
				d.start(t, "a")
				h.wantOnDisk(t, v, "work of a")
				equal(t, "the work disk's content", h.readWorkDisk(v), "home of a")
			})
		}
	}
}

// TestDisksThatAStartMakes checks that a VM gets the disks that it never had.
func TestDisksThatAStartMakes(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.homes = true
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a", WorkDiskSize: ptr(model.Bytes(0))})
	stop := func() {
		t.Helper()
		if _, err := d.Stop(t.Context(), "a", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if _, err := d.Set(t.Context(), "a", model.Change{WorkDiskSize: ptr(64 * model.MiB)}); err != nil {
		t.Fatal(err)
	}
	d.start(t, "a") // a work disk that the VM gets now
	stop()
	if _, err := d.Set(t.Context(), "a", model.Change{Image: ptr("other")}); err != nil {
		t.Fatal(err)
	}
	damage(t, os.Remove(h.layout.VM(v.ID).SystemDisk()))
	d.start(t, "a") // a system disk for the other image
	stop()
	e, err := d.find("a")
	damage(t, err)
	damage(t, d.rewrite(t.Context(), e, func(v *model.VM) { v.Disks = nil })) // an old record
	d.start(t, "a")
	v, _ = d.Get(v.ID)
	equal(t, "the number of recorded disks", len(v.Disks), 2)
}

// TestForkWithoutItsDisk checks that a VM that was made with copies of disks never gets an empty
// one, even before its first start.
func TestForkWithoutItsDisk(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.homes = true
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a", WorkDiskSize: ptr(64 * model.MiB)})
	d.snap(t, v, "s")
	child := d.restore(t, "s", model.Restore{DisksOnly: true})[0]
	damage(t, os.Remove(h.layout.VM(child.ID).WorkDisk()))
	_, err := d.Start(t.Context(), child.ID, model.Start{}, nil)
	equal(t, "the kind of the error", fault.KindOf(err), fault.Damaged)
	d.restore(t, "s", model.Restore{DisksOnly: true, Into: "a", Force: true})
	damage(t, os.Remove(h.layout.VM(v.ID).SystemDisk()))
	_, err = d.Start(t.Context(), "a", model.Start{}, nil)
	equal(t, "the kind of the error after a restore in place", fault.KindOf(err), fault.Damaged)
}

// TestStartWithoutItsDirectory checks that a start names a missing directory as damage.
func TestStartWithoutItsDirectory(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.homes = true
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a"})
	damage(t, os.RemoveAll(h.layout.VM(v.ID).Dir))
	_, err := d.Start(t.Context(), "a", model.Start{}, nil)
	equal(t, "the kind of the error", fault.KindOf(err), fault.Damaged)
	claim(t, fault.HintOf(err) != "", "there is no hint with %v", err)
}
