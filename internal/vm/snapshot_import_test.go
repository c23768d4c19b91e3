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
	// Its own name, a requested one, and a random one, because its own is then taken.
	for i, want := range []string{"s", "named", ""} {
		name := want
		if i == 0 {
			name = ""
		}
		s, err := d.library.Import(t.Context(), bytes.NewReader(stream.Bytes()), name, nil)
		if err != nil {
			t.Fatal(err)
		}
		claim(t, s.Name != "", "the imported snapshot has no name")
		claim(t, (len(s.Notices) == 1) == (want == ""), "the notices of the import are %+v", s.Notices)
		if want != "" {
			equal(t, "the imported snapshot's name", s.Name, want)
		} else {
			claim(t, s.Name != "s", "the imported snapshot has the taken name %q", s.Name)
		}
		child := d.restore(t, s.Name, model.Restore{})[0]
		wantMadeFrom(t, child, s)
		there.wantWork(t, child, "work of a")
	}
	if _, err := d.library.Import(t.Context(), bytes.NewReader(stream.Bytes()), "s", nil); fault.KindOf(err) != fault.Exists {
		t.Errorf("the import with a taken name returned %v", err)
	}
	if _, err := d.library.Import(t.Context(), bytes.NewReader(stream.Bytes()[:stream.Len()/2]), "", nil); err == nil {
		t.Error("half of a snapshot was imported")
	}
	there.wantStored(t, 3)
}
