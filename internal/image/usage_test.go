package image

import (
	"strings"
	"testing"

	"banger/internal/model"
)

// TestUsage compares the reclaimable space with what a prune frees.
func TestUsage(t *testing.T) {
	h := newHub(t)
	s := newStore(t, Options{})
	used, idle := importFile(t, s, "1", "one"), importFile(t, s, "2", "two")
	pulled, err := s.Pull(t.Context(), h.push(t, "app:1", makeImage(t, tarLayer(t, file{name: "a"}))), PullOptions{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, s.blobPath(strings.Repeat("0", 64)), make([]byte, 64<<10))
	inUse := func(id string) []string {
		if id == used.ID || id == pulled.ID {
			return []string{"vm"}
		}
		return nil
	}
	rows, err := s.Usage(inUse)
	if err != nil || len(rows) != 4 {
		t.Fatalf("%+v, %v", rows, err)
	}
	var reclaimable model.Bytes
	for _, row := range rows {
		reclaimable += row.Reclaimable
		switch {
		case row.Apparent == 0 || row.Own == 0 || row.Shared != 0:
			t.Errorf("%+v is not a plausible size", row)
		case row.Kind == model.UsageCache:
			// The pulled image's layer is kept.
			if row.Reclaimable != 64*model.KiB || row.Own <= row.Reclaimable {
				t.Errorf("the usage of layers is wrong: %+v", row)
			}
		case (row.Name == idle.Names[0]) != (row.Reclaimable == row.Own), row.Reclaimable != 0 && row.Reclaimable != row.Own, row.Kind != model.UsageImage:
			t.Errorf("the usage of an image is wrong: %+v", row)
		}
	}
	gone, err := s.Prune(inUse, true)
	// A prune does not count records.
	if err != nil || gone.Freed > reclaimable || gone.Freed < reclaimable-16*model.KiB {
		t.Errorf("%v was reported reclaimable, but %v was freed: %v", reclaimable, gone.Freed, err)
	}
	if rows, err = s.Usage(inUse); err != nil || len(rows) != 3 {
		t.Errorf("after the prune: %+v, %v", rows, err)
	}
	for _, row := range rows {
		if row.Reclaimable != 0 {
			t.Errorf("after the prune: %+v", row)
		}
	}
}
