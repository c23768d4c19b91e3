package vm

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/snapshot"
)

// TestDamagedSnapshot damages each file of a snapshot. No VM is made from it, and it can be
// deleted.
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
						want := fault.Damaged
						if req.DisksOnly && (file == "memory" || file == "device") {
							continue // see TestDisksOfADamagedSnapshot
						}
						if ref == "s" && file == "meta.json" {
							want = fault.NotFound // its name is lost
						}
						if _, err := d.RestoreSnapshot(t.Context(), ref, req, nil); fault.KindOf(err) != want {
							t.Errorf("the restore %+v of the damaged %q returned %v", req, ref, err)
						}
					}
				}
				h.wantAllFiles(t, before)
				d.wantVMs(t, 1)
				if err := d.References(func(images, _ map[string][]string) error {
					if !slices.Contains(images["id-of-img"], "snapshot good") {
						t.Errorf("the whole snapshot does not hold its image: %v", images)
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
				if err != nil {
					t.Error(err)
				}
				equal(t, "the number of listed snapshots", len(list), 2)
				if i := slices.IndexFunc(list, func(one model.Snapshot) bool { return one.ID == s.ID }); i < 0 {
					t.Errorf("the damaged snapshot is not listed: %+v", list)
				} else {
					got := list[i]
					want.Damaged, want.Size = got.Damaged, got.Size
					claim(t, got.Damaged != "", "the damage is not listed: %+v", got)
					claim(t, got.Size > 0, "the damaged snapshot is listed with the size %v", got.Size)
					claim(t, reflect.DeepEqual(got, want), "the listed snapshot is %+v, not %+v", got, want)
					for _, ref := range []string{got.ID, got.ID[:15], got.Name} {
						if shown, err := d.library.Get(t.Context(), ref); ref != "" && (err != nil || !reflect.DeepEqual(shown, got)) {
							t.Errorf("%q is shown as %+v, %v, not as it is listed", ref, shown, err)
						}
					}
				}
				if file != "meta.json" {
					if _, err := d.CreateSnapshot(t.Context(), "a", "s", nil); fault.KindOf(err) != fault.Exists {
						t.Errorf("another snapshot of the damaged one's name returned %v", err)
					}
				}
				if _, err := d.library.Get(t.Context(), ""); fault.KindOf(err) != fault.NotFound {
					t.Errorf("looking up an empty name returned %v", err)
				}
				if rows, err := d.Usage(t.Context()); err != nil || !slices.ContainsFunc(rows, func(r model.UsageRow) bool {
					return r.Kind == model.UsageSnapshot && r.Name == cmp.Or(want.Name, s.ID)
				}) {
					t.Errorf("the disk usage does not list the damaged snapshot: %+v, %v", rows, err)
				}
				if _, err := d.library.Delete(t.Context(), cmp.Or(want.Name, s.ID)); err != nil {
					t.Error(err)
				}
				if list, err := d.library.List(t.Context()); err != nil || len(list) != 1 {
					t.Errorf("one snapshot must be left, but listed are %+v, %v", list, err)
				} else {
					equal(t, "the snapshot that is left", list[0].ID, good.ID)
				}
				h.wantStored(t, 1)
			})
		}
	}
}

// TestDisksOfADamagedSnapshot checks that the disks of a snapshot can be restored without its
// memory, and that the error of the other restore says so.
func TestDisksOfADamagedSnapshot(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"memory", "device"} {
		for _, how := range damages {
			t.Run(file+" "+how.name, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				s := d.snap(t, v, "s")
				how.do(t, filepath.Join(h.layout.Snapshots(), s.ID, file))
				_, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{}, nil)
				equal(t, "the kind of the error", fault.KindOf(err), fault.Damaged)
				hint := fault.HintOf(err)
				first, then := strings.Index(hint, "--disks-only"), strings.Index(hint, "delete")
				claim(t, first >= 0 && first < then, "the hint does not offer the disks first: %s", hint)
				child := d.restore(t, "s", model.Restore{DisksOnly: true})[0]
				equal(t, "the state of the new VM", child.State, model.Stopped)
				h.wantOnDisk(t, child, "work of a")
				d.restore(t, "s", model.Restore{DisksOnly: true, Into: "a", Force: true})
				h.wantOnDisk(t, v, "work of a")
			})
		}
	}
}

// TestHostileSnapshot has well-formed descriptions that are false, and a request that trusts them.
func TestHostileSnapshot(t *testing.T) {
	t.Parallel()
	ofMemory := []string{"no fingerprint", "less memory", "another layout", "no layout"}
	for name, lie := range map[string]func(*snapshot.Meta){
		"no fingerprint":  func(m *snapshot.Meta) { m.Fingerprint = "" },
		"another machine": func(m *snapshot.Meta) { m.Fingerprint = "x" },
		"no CPUs":         func(m *snapshot.Meta) { m.Spec.VCPUs = 0 },
		"less memory":     func(m *snapshot.Meta) { m.Spec.Memory = 256 * model.MiB },
		"another layout":  func(m *snapshot.Meta) { m.Layout = []byte(`{"version":1,"regions":[{"size":4096}]}`) },
		"no layout":       func(m *snapshot.Meta) { m.Layout = []byte(`7`) },
		"a work disk":     func(m *snapshot.Meta) { m.Spec.WorkDiskSize = 64 * model.MiB },
		"a bad policy":    func(m *snapshot.Meta) { m.Spec.Remove = "soon" },
		"no label":        func(m *snapshot.Meta) { m.Extra = []byte(`"x"`) },
		"no image":        func(m *snapshot.Meta) { m.Spec.ImageID = "none" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.setGone("none", true)
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
			damage(t, copyInto(t, snap.OpenMemory, memory))
			device, err := os.OpenFile(draft.Device(), os.O_CREATE|os.O_WRONLY, 0o600)
			damage(t, err)
			damage(t, errors.Join(copyInto(t, snap.OpenDevice, device), device.Close()))
			from, _ := snap.DiskPath(machine.SystemDisk)
			damage(t, draft.CloneDisk(t.Context(), machine.SystemDisk, from))
			_, err = draft.Commit(t.Context(), meta)
			damage(t, err)
			damage(t, snapshot.Remove(path))
			damage(t, os.Rename(path+"-lies", path))
			before := h.files()
			forked, err := d.RestoreSnapshot(t.Context(), s.ID, model.Restore{TrustMemory: true}, nil)
			if err == nil && forked.Children[0].VM != nil {
				t.Errorf("a false description made the VM %+v", forked.Children[0].VM)
			}
			if _, err := d.RestoreSnapshot(t.Context(), s.ID, model.Restore{Into: "a", Force: true, TrustMemory: true}, nil); err == nil {
				t.Error("a false description was restored in place")
			}
			h.wantFiles(t, before)
			d.wantVMs(t, 1)
			d.wantState(t, "a", model.Running)
			h.wantWork(t, v, "work of a")
			if slices.Contains(ofMemory, name) { // the way out that the error names
				claim(t, strings.Contains(fault.HintOf(err), "--disks-only "+s.ID), "the hint does not offer the disks of %s: %s", s.ID, fault.HintOf(err))
				h.wantOnDisk(t, d.restore(t, s.ID, model.Restore{DisksOnly: true})[0], "work of a")
			}
			if _, err := d.library.Delete(t.Context(), s.ID); err != nil {
				t.Error(err)
			}
		})
	}
}

// copyInto copies a file of a snapshot.
func copyInto(t *testing.T, open func() (*os.File, error), to *os.File) error {
	from, err := open()
	if err != nil {
		return err
	}
	defer from.Close()
	return disk.CloneFile(t.Context(), from, to)
}
