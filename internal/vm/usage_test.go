package vm

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"banger/internal/disk"
	"banger/internal/model"
)

// usageOf returns the rows of a daemon's disk usage by kind and name.
func usageOf(t *testing.T, d *daemon) map[string]model.UsageRow {
	t.Helper()
	rows, err := d.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]model.UsageRow{}
	for _, row := range rows {
		named[string(row.Kind)+" "+row.Name] = row
	}
	if len(named) != len(rows) {
		t.Errorf("several rows have the same name: %+v", rows)
	}
	return named
}

func TestUsage(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	works, rests := d.worker(t, model.Create{Name: "works"}), d.worker(t, model.Create{Name: "rests"})
	if _, err := d.Stop(t.Context(), rests.ID, nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := d.CreateSnapshot(t.Context(), works.ID, "night", nil); err != nil {
		t.Fatal(err)
	}
	before := usageOf(t, d)
	running := before["vm works"]
	claim(t, running.Own > 0, "a running VM takes up no space: %+v", running)
	equal(t, "the reclaimable space of a running VM", running.Reclaimable, 0)
	rest := before["vm rests"]
	claim(t, rest.Own > 0, "a stopped VM takes up no space: %+v", rest)
	equal(t, "the reclaimable space of a stopped VM", rest.Reclaimable, rest.Own)
	claim(t, rest.Apparent >= rests.Spec.DiskSize, "a stopped VM appears smaller than its disk: %+v", rest)
	night := before["snapshot night"]
	claim(t, night.Own > 0, "a snapshot takes up no space: %+v", night)
	equal(t, "the reclaimable space of a snapshot", night.Reclaimable, 0)
	unfinished, ok := before["cache unfinished"]
	claim(t, ok, "there is no row of unfinished files: %+v", before)
	equal(t, "the space of unfinished files", unfinished.Own, 0)
	equal(t, "the number of rows", len(before), 4)

	// Saved memory is in the VM's row. Unknown files are in the row of unfinished ones.
	d.suspend(t, works)
	kept, err := disk.SpaceOf(h.layout.VM(works.ID).Suspended())
	left := filepath.Join(h.layout.Snapshots(), disk.TempPrefix+"left")
	memory := filepath.Join(left, "memory")
	if err := errors.Join(err, os.MkdirAll(left, 0o700), os.WriteFile(memory, make([]byte, 64<<10), 0o600)); err != nil {
		t.Fatal(err)
	}
	after := usageOf(t, d)
	work := after["vm works"]
	claim(t, kept.Own > 0, "the saved memory takes up no space: %+v", kept)
	claim(t, work.Apparent >= before["vm works"].Apparent+kept.Apparent,
		"the row of a suspended VM lacks its memory of %+v: %+v, was %+v", kept, work, before["vm works"])
	equal(t, "the reclaimable space of a suspended VM", work.Reclaimable, 0)
	if row := after["cache unfinished"]; row.Own != 64*model.KiB {
		t.Errorf("the row of unfinished files lacks what a crash left: %+v", row)
	}
}
