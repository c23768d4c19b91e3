package vm

import (
	"bytes"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

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
		if err != nil {
			t.Fatal(err)
		}
		claim(t, s.Name != "", "the imported snapshot has no name")
		if want != "" {
			equal(t, "the imported snapshot's name", s.Name, want)
		} else {
			claim(t, s.Name != "s", "the imported snapshot has the taken name %q", s.Name)
		}
		child := d.restore(t, s.Name, model.Restore{})[0]
		isOf(t, child, s)
		there.wantWork(t, child, "work of a")
	}
	if _, err := d.library.Import(t.Context(), bytes.NewReader(stream.Bytes()), "s", nil); fault.KindOf(err) != fault.Exists {
		t.Errorf("under a name that is taken: %v", err)
	}
	if _, err := d.library.Import(t.Context(), bytes.NewReader(stream.Bytes()[:stream.Len()/2]), "", nil); err == nil {
		t.Error("half of it was taken in")
	}
	there.wantStored(t, 3)
}
