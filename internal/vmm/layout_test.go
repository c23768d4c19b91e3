package vmm_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
)

// split is the memory of a machine with 4 GiB, of which 1 GiB lies above the hole under 4 GiB.
func split() *vmm.MemoryLayout {
	return vmm.NewMemoryLayout(
		vmm.MemoryRegion{Size: 3 * model.GiB},
		vmm.MemoryRegion{Address: 4 << 30, Size: model.GiB, Offset: 3 << 30})
}

func TestMemoryLayoutJSON(t *testing.T) {
	data, err := json.Marshal(split())
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"version":1,"regions":[{"address":0,"size":3221225472,"offset":0},` +
		`{"address":4294967296,"size":1073741824,"offset":3221225472}]}`
	if string(data) != want {
		t.Errorf("snapshots that hold\n%s\ncannot be read: a layout is stored as\n%s", want, data)
	}
	got, err := vmm.DecodeMemoryLayout([]byte(want))
	if err != nil || !slices.Equal(got.Regions, split().Regions) {
		t.Errorf("a stored layout is not the one that was saved: %+v, %v", got, err)
	}
	if got, err := vmm.DecodeMemoryLayout(nil); got != nil || err != nil {
		t.Errorf("no data does not stand for no layout: %+v, %v", got, err)
	}
}

func TestDecodeMemoryLayoutRefuses(t *testing.T) {
	region := func(address, size, offset int64) string {
		return fmt.Sprintf(`{"address":%d,"size":%d,"offset":%d}`, address, size, offset)
	}
	list := func(regions ...string) string {
		return `{"version":1,"regions":[` + strings.Join(regions, ",") + `]}`
	}
	for name, c := range map[string]struct {
		data string
		want fault.Kind
	}{
		"no JSON":               {"x", fault.Invalid},
		"a newer version":       {`{"version":2,"regions":[` + region(0, 4096, 0) + `]}`, fault.Unsupported},
		"null":                  {"null", fault.Unsupported},
		"no regions":            {list(), fault.Invalid},
		"too many regions":      {list(slices.Repeat([]string{region(0, 4096, 0)}, 65)...), fault.Invalid},
		"an empty region":       {list(region(0, 0, 0)), fault.Invalid},
		"a negative size":       {list(region(0, -4096, 0)), fault.Invalid},
		"half a page":           {list(region(0, 2048, 0)), fault.Invalid},
		"a negative address":    {list(region(-4096, 4096, 0)), fault.Invalid},
		"a huge address":        {list(region(1<<62, 4096, 0)), fault.Invalid},
		"an odd address":        {list(region(1, 4096, 0)), fault.Invalid},
		"a negative offset":     {list(region(0, 4096, -4096)), fault.Invalid},
		"overlapping addresses": {list(region(0, 8192, 0), region(4096, 4096, 8192)), fault.Invalid},
		"overlapping offsets":   {list(region(0, 8192, 0), region(8192, 4096, 4096)), fault.Invalid},
		"a size that overflows": {list(region(0, 1<<62, 0), region(4096, 1<<62, 4096)), fault.Invalid},
	} {
		if _, err := vmm.DecodeMemoryLayout([]byte(c.data)); fault.KindOf(err) != c.want {
			t.Errorf("%s is not refused as %s: %v", name, c.want, err)
		}
	}
}

func TestCheckpointRegions(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(4 << 30); err != nil {
		t.Fatal(err)
	}
	whole := []vmm.MemoryRegion{{Size: 4 * model.GiB}}
	for name, c := range map[string]struct {
		layout *vmm.MemoryLayout
		memory model.Bytes
		want   []vmm.MemoryRegion // nil: it is refused
	}{
		"a split memory":             {split(), 4 * model.GiB, split().Regions},
		"an old snapshot":            {nil, 4 * model.GiB, whole},
		"an old snapshot, too small": {nil, 8 * model.GiB, nil},
		"another machine":            {split(), 3 * model.GiB, nil},
		"a file that is too long":    {vmm.NewMemoryLayout(vmm.MemoryRegion{Size: model.GiB}), model.GiB, nil},
		"a file that is too short":   {vmm.NewMemoryLayout(vmm.MemoryRegion{Size: 8 * model.GiB}), 8 * model.GiB, nil},
		"a layout without regions":   {vmm.NewMemoryLayout(), 4 * model.GiB, nil},
	} {
		got, err := vmm.Checkpoint{Memory: f, Layout: c.layout}.Regions(c.memory)
		if c.want == nil && fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s is not refused as invalid: %+v, %v", name, got, err)
		}
		if c.want != nil && (err != nil || !slices.Equal(got, c.want)) {
			t.Errorf("%s has the regions %+v, not %+v: %v", name, got, c.want, err)
		}
	}
}

// FuzzDecodeMemoryLayout decodes what a snapshot from elsewhere may hold.
func FuzzDecodeMemoryLayout(f *testing.F) {
	data, err := json.Marshal(split())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1,"regions":[{"size":-1}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := vmm.DecodeMemoryLayout(data)
		if err != nil || l == nil {
			return
		}
		var address, offset int64
		for _, r := range l.Regions {
			if r.Size <= 0 || r.Address < address || r.Offset < offset {
				t.Fatalf("regions overlap or are out of order: %+v", l.Regions)
			}
			address, offset = r.Address+int64(r.Size), r.Offset+int64(r.Size)
		}
	})
}
