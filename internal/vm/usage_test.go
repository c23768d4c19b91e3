package vm

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"banger/internal/disk"
	"banger/internal/model"
)

// usageOf are the rows of a daemon's things by kind and name.
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
		t.Errorf("rows have the same names: %+v", rows)
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
	if row := before["vm works"]; row.Own == 0 || row.Reclaimable != 0 {
		t.Errorf("a running VM: %+v", row)
	}
	if row := before["vm rests"]; row.Own == 0 || row.Reclaimable != row.Own || row.Apparent < rests.Spec.DiskSize {
		t.Errorf("a stopped VM: %+v", row)
	}
	if row := before["snapshot night"]; row.Own == 0 || row.Reclaimable != 0 {
		t.Errorf("a snapshot: %+v", row)
	}
	if row, ok := before["cache unfinished"]; !ok || row.Own != 0 || len(before) != 4 {
		t.Errorf("nothing is unfinished: %+v", before)
	}

	// Memory that is kept is in the VM's row, and what nobody knows in that of what is unfinished.
	d.suspend(t, works)
	kept, err := disk.SpaceOf(h.layout.VM(works.ID).Suspended())
	left := filepath.Join(h.layout.Snapshots(), disk.TempPrefix+"left")
	if err := errors.Join(err, os.MkdirAll(left, 0o700), os.WriteFile(filepath.Join(left, "memory"), make([]byte, 64<<10), 0o600)); err != nil {
		t.Fatal(err)
	}
	after := usageOf(t, d)
	if row := after["vm works"]; kept.Own == 0 || row.Apparent < before["vm works"].Apparent+kept.Apparent || row.Reclaimable != 0 {
		t.Errorf("a suspended VM, whose memory takes up %+v: %+v, was %+v", kept, row, before["vm works"])
	}
	if row := after["cache unfinished"]; row.Own != 64*model.KiB {
		t.Errorf("what a crash left: %+v", row)
	}
}
