package library

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/snapshot"
)

// wrong holds changes of a good description that make it wrong, each with a word of the error: the
// field.
var wrong = map[string]struct {
	change func(*snapshot.Meta, *Label)
	field  string
}{
	"no image":                   {func(m *snapshot.Meta, _ *Label) { m.Spec.ImageID = "" }, "spec.image_id"},
	"an image's id with a path":  {func(m *snapshot.Meta, _ *Label) { m.Spec.ImageID = "../.." }, "spec.image_id"},
	"a kernel's id with a path":  {func(m *snapshot.Meta, _ *Label) { m.Spec.KernelID = "a/b" }, "spec.kernel_id"},
	"a long kernel's id":         {func(m *snapshot.Meta, _ *Label) { m.Spec.KernelID = strings.Repeat("a", 65) }, "spec.kernel_id"},
	"no reference":               {func(m *snapshot.Meta, _ *Label) { m.Spec.Image = "" }, "spec.image"},
	"a long reference":           {func(m *snapshot.Meta, _ *Label) { m.Spec.Kernel = strings.Repeat("k", 600) }, "spec.kernel"},
	"a driver with a path":       {func(m *snapshot.Meta, _ *Label) { m.Driver = "../qemu" }, "driver"},
	"no vCPU":                    {func(m *snapshot.Meta, _ *Label) { m.Spec.VCPUs = -1 }, "vcpus"},
	"huge memory":                {func(m *snapshot.Meta, _ *Label) { m.Spec.Memory = 2 * model.MaxMemory }, "memory"},
	"a negative disk":            {func(m *snapshot.Meta, _ *Label) { m.Spec.DiskSize = -1 }, "disk size"},
	"a bad environment":          {func(m *snapshot.Meta, _ *Label) { m.Spec.Env = map[string]string{"A=B": ""} }, "env"},
	"a VM's name":                {func(_ *snapshot.Meta, l *Label) { l.VM = "../x" }, "name"},
	"no id of a VM":              {func(_ *snapshot.Meta, l *Label) { l.VMID = "" }, "extra.vm_id"},
	"an id of a VM with a path":  {func(_ *snapshot.Meta, l *Label) { l.VMID = "../../etc/passwd" }, "extra.vm_id"},
	"a negative pause":           {func(_ *snapshot.Meta, l *Label) { l.Pause = -1 }, "extra.pause"},
	"a layout that is none":      {func(m *snapshot.Meta, _ *Label) { m.Layout = []byte(`7`) }, "layout"},
	"a region of 2^62":           {func(m *snapshot.Meta, _ *Label) { m.Layout = layout(1<<62, 0) }, "layout"},
	"a region at 2^62":           {func(m *snapshot.Meta, _ *Label) { m.Layout = layout(256<<20, 1<<62) }, "layout"},
	"a region of less":           {func(m *snapshot.Meta, _ *Label) { m.Layout = layout(4096, 0) }, "layout"},
	"a region behind the file":   {func(m *snapshot.Meta, _ *Label) { m.Layout = layout(256<<20, 4096) }, "layout"},
	"a layout of other memory":   {func(m *snapshot.Meta, _ *Label) { m.Spec.Memory, m.Layout = 512*model.MiB, layout(256<<20, 0) }, "layout"},
	"a negative generation":      {func(m *snapshot.Meta, _ *Label) { m.Generation = -1 }, "generation"},
	"an environment of 65 KiB":   {func(m *snapshot.Meta, _ *Label) { m.Spec.Env = map[string]string{"A": strings.Repeat("x", 65<<10)} }, "env"},
	"no fingerprint":             {func(m *snapshot.Meta, _ *Label) { m.Fingerprint = "" }, "fingerprint"},
	"no work disk":               {func(m *snapshot.Meta, _ *Label) { m.Spec.WorkDiskSize = model.GiB }, "disks"},
	"a label with another shape": {func(m *snapshot.Meta, _ *Label) { m.Extra = []byte(`[]`) }, "extra"},
}

// foreign holds changes that only an import refuses: a stored snapshot with them can be restored.
var foreign = map[string]struct {
	change func(*snapshot.Meta, *Label)
	field  string
}{
	"an image that is a path":   {func(m *snapshot.Meta, _ *Label) { m.Spec.Image = "../../etc" }, "spec.image"},
	"an absolute image":         {func(m *snapshot.Meta, _ *Label) { m.Spec.Image = "/etc" }, "spec.image"},
	"an image with dots inside": {func(m *snapshot.Meta, _ *Label) { m.Spec.Image = "a/../b:c" }, "spec.image"},
	"an image of two lines":     {func(m *snapshot.Meta, _ *Label) { m.Spec.Image = "debian:bookworm\n" }, "spec.image"},
	"a kernel that is a path":   {func(m *snapshot.Meta, _ *Label) { m.Spec.Kernel = "../debian" }, "spec.kernel"},
	"a user of two lines":       {func(m *snapshot.Meta, _ *Label) { m.Spec.User = "root\n" }, "spec.user"},
	"a user with a NUL":         {func(m *snapshot.Meta, _ *Label) { m.Spec.User = "root\x00" }, "spec.user"},
	"a long user":               {func(m *snapshot.Meta, _ *Label) { m.Spec.User = strings.Repeat("u", 300) }, "spec.user"},
}

// layout is a layout of one region.
func layout(size, offset int64) []byte {
	return fmt.Appendf(nil, `{"version":1,"regions":[{"address":0,"size":%d,"offset":%d}]}`, size, offset)
}

func goodMeta(t *testing.T, change func(*snapshot.Meta, *Label)) snapshot.Meta {
	t.Helper()
	meta, label := snapshot.Meta{Spec: spec(), Fingerprint: "f", Layout: layout(256<<20, 0)}, Label{Name: "n", VM: "web", VMID: "0123456789abcdef"}
	change(&meta, &label)
	if meta.Extra == nil {
		var err error
		if meta.Extra, err = json.Marshal(label); err != nil {
			t.Fatal(err)
		}
	}
	return meta
}

// stored commits a description as it is, in the directory of a library, and returns its stream.
func stored(t *testing.T, l *Library, meta snapshot.Meta, disk string) []byte {
	t.Helper()
	d := draft(t, l)
	d.SumDisks = true
	if disk != "system" {
		large := filepath.Join(t.TempDir(), "disk")
		if err := errors.Join(os.WriteFile(large, nil, 0o600), os.Truncate(large, int64(model.GiB)), d.CloneDisk(t.Context(), disk, large)); err != nil {
			t.Fatal(err)
		}
	}
	snap, err := d.Commit(t.Context(), meta)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := snapshot.Export(t.Context(), snap, &out, nil); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestWrongDescriptions imports a snapshot with each wrong description. It is refused with the name
// of the field, before anything is made. In the home's directory, it counts as damaged, and banger
// stores none.
func TestWrongDescriptions(t *testing.T) {
	for name, w := range wrong {
		t.Run(name, func(t *testing.T) {
			meta := goodMeta(t, w.change)
			if w.field == "generation" { // package snapshot refuses it
				if _, err := draft(t, open(t, t.TempDir())).Commit(t.Context(), meta); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), w.field) {
					t.Errorf("the commit returned %v; want a refusal that names %s", err, w.field)
				}
				return
			}
			here, there := open(t, t.TempDir()), open(t, t.TempDir())
			stream := stored(t, here, meta, "system")
			// The stream ends after it: a later check would report that it is cut off.
			_, err := there.Import(t.Context(), bytes.NewReader(stream[:len(stream)-60]), "", nil)
			if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), w.field) {
				t.Errorf("the import returned %v; want a refusal that names %s", err, w.field)
			}
			if left, err := os.ReadDir(there.Dir("")); err != nil || len(left) != 0 {
				t.Errorf("the import has left %v, %v", left, err)
			}
			list, err := here.List(t.Context())
			if err != nil || len(list) != 1 || !strings.Contains(list[0].Damaged, w.field) {
				t.Errorf("in the home's directory, it is %+v, %v; want a damaged one that names %s", list, err, w.field)
			}
			if meta.Extra = nil; !strings.HasPrefix(w.field, "extra") && w.field != "name" {
				if _, err := there.Store(t.Context(), draft(t, there), meta, Label{VM: "web", VMID: "0123456789abcdef"}); fault.KindOf(err) != fault.Invalid {
					t.Errorf("such a snapshot is stored: %v", err)
				}
			}
		})
	}
}

// TestForeignDescriptions imports a snapshot with each description that nobody else may bring. In
// the home's directory, it counts as whole.
func TestForeignDescriptions(t *testing.T) {
	for name, w := range foreign {
		t.Run(name, func(t *testing.T) {
			here, there := open(t, t.TempDir()), open(t, t.TempDir())
			stream := stored(t, here, goodMeta(t, w.change), "system")
			_, err := there.Import(t.Context(), bytes.NewReader(stream), "", nil)
			if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), w.field) {
				t.Errorf("the import returned %v; want a refusal that names %s", err, w.field)
			}
			if left, err := os.ReadDir(there.Dir("")); err != nil || len(left) != 0 {
				t.Errorf("the import has left %v, %v", left, err)
			}
			if list, err := here.List(t.Context()); err != nil || len(list) != 1 || list[0].Damaged != "" {
				t.Errorf("in the home's directory, it is %+v, %v", list, err)
			}
		})
	}
	for _, image := range []string{"debian:bookworm", "docker.io/library/alpine:3", "localhost:5000/my_app@sha256:" + strings.Repeat("a", 64), "[::1]:5000/x", "Registry.example/a/b:V1.0", "0123456789ab"} {
		if !isImage(image) {
			t.Errorf("%s is refused", image)
		}
	}
}

// TestGoodDescription claims that the description that the others change is imported.
func TestGoodDescription(t *testing.T) {
	here, there := open(t, t.TempDir()), open(t, t.TempDir())
	if _, err := there.Import(t.Context(), bytes.NewReader(stored(t, here, goodMeta(t, func(*snapshot.Meta, *Label) {}), "system")), "", nil); err != nil {
		t.Error(err)
	}
}

// TestWrongDisks imports snapshots with disks that the VM does not have, or not of this size. A
// snapshot of this home with a larger disk than its spec says gets a spec with the true size.
func TestWrongDisks(t *testing.T) {
	for _, tt := range []struct {
		disk   string
		size   model.Bytes // of the work disk in the spec
		field  string
		should string
	}{
		{"record", model.GiB, "disks", "an unknown disk"},
		{"work", 0, "disks", "a work disk of a VM without one"},
		{"work", model.MinDiskSize, "work: the disk has", "a disk that is larger than its VM's"},
	} {
		here, there := open(t, t.TempDir()), open(t, t.TempDir())
		meta := goodMeta(t, func(m *snapshot.Meta, _ *Label) { m.Spec.WorkDiskSize = tt.size })
		_, err := there.Import(t.Context(), bytes.NewReader(stored(t, here, meta, tt.disk)), "", nil)
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), tt.field) {
			t.Errorf("%s: the import returned %v; want a refusal that names %s", tt.should, err, tt.field)
		}
	}
	l, large := open(t, t.TempDir()), filepath.Join(t.TempDir(), "disk")
	d := draft(t, l)
	if err := errors.Join(os.WriteFile(large, nil, 0o600), os.Truncate(large, int64(2*model.GiB)), d.CloneDisk(t.Context(), "work", large)); err != nil {
		t.Fatal(err)
	}
	meta := snapshot.Meta{Spec: spec(), Fingerprint: "f"}
	meta.Spec.WorkDiskSize = model.GiB
	if _, err := l.Store(t.Context(), d, meta, Label{Name: "large", VM: "web", VMID: model.NewID()}); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, t.TempDir()).Import(t.Context(), bytes.NewReader(export(t, l, "large")), "", nil); err != nil {
		t.Errorf("a snapshot of this home with a larger disk: %v", err)
	}
}

// TestImpossibleIDs imports snapshots that name their image or kernel by what is no id. No home
// could restore them.
func TestImpossibleIDs(t *testing.T) {
	for field, change := range map[string]func(*snapshot.Meta, *Label){
		"spec.kernel_id: \"debian\"":      func(m *snapshot.Meta, _ *Label) { m.Spec.KernelID = "debian" },
		"spec.image_id: \"abababababab\"": func(m *snapshot.Meta, _ *Label) { m.Spec.ImageID = "abababababab" },
	} {
		here, there := open(t, t.TempDir()), open(t, t.TempDir())
		_, err := there.Import(t.Context(), bytes.NewReader(stored(t, here, goodMeta(t, change), "system")), "", nil)
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), field) {
			t.Errorf("the import returned %v; want a refusal with %s", err, field)
		}
	}
}

// FuzzCheck claims that what check accepts names no path and has possible sizes.
func FuzzCheck(f *testing.F) {
	meta := snapshot.Meta{Spec: spec(), Fingerprint: "f", Layout: layout(256<<20, 0), Memory: &snapshot.File{Size: 256 * model.MiB},
		Extra: []byte(`{"vm":"web","vm_id":"0123456789abcdef"}`)}
	good, err := json.Marshal(meta)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	for _, w := range foreign {
		bad := meta
		w.change(&bad, &Label{})
		data, err := json.Marshal(bad)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add(bytes.ReplaceAll(good, []byte(strings.Repeat("ab", 32)), []byte("../..")))
	f.Add([]byte(`{"extra":{"vm":"a","pause":-9e9},"layout":{"version":1,"regions":[{"size":4611686018427387904}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var meta snapshot.Meta
		if json.Unmarshal(data, &meta) != nil {
			return
		}
		label, err := checkForeign(meta)
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Errorf("%v is of kind %s", err, fault.KindOf(err))
			}
			return
		}
		if !model.IsID(label.VMID) || strings.ContainsAny(meta.Spec.ImageID+meta.Spec.KernelID+meta.Driver, "/.\x00") || meta.Spec.ImageID == "" ||
			strings.HasPrefix(meta.Spec.Image, "/") || strings.Contains("/"+meta.Spec.Image+"/", "/../") || strings.Contains(meta.Spec.Kernel, "/") ||
			strings.ContainsAny(meta.Spec.Image+meta.Spec.Kernel+meta.Spec.User, "\n\x00\x1b") {
			t.Errorf("accepted: %+v", meta)
		}
		for _, d := range meta.Disks {
			if d.Size > max(meta.Spec.DiskSize, meta.Spec.WorkDiskSize) {
				t.Errorf("accepted: disk %+v of %+v", d, meta.Spec)
			}
		}
	})
}
