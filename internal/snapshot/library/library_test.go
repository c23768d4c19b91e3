package library

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/snapshot"
)

func open(t *testing.T, home string) *Library {
	t.Helper()
	l, err := Open(filepath.Join(home, "snapshots"), filepath.Join(home, "key"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// spec is a valid one.
func spec() model.Spec {
	return model.Spec{
		Name: "web", Image: "debian:bookworm", ImageID: strings.Repeat("ab", 32), Kernel: "debian", KernelID: strings.Repeat("cd", 32), VCPUs: 2,
		Memory: 256 * model.MiB, DiskSize: model.GiB, Net: model.NetNone, Remove: model.RemoveNever,
		Env: map[string]string{"A": "b"},
	}
}

// draft is a snapshot with memory and one disk.
func draft(t *testing.T, l *Library) *snapshot.Draft {
	t.Helper()
	d, err := l.Draft()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Discard() })
	memory, err := d.Memory()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := memory.WriteString("memory"); err != nil {
		t.Fatal(err)
	}
	if err := memory.Truncate(int64(spec().Memory)); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(d.Device(), []byte("device"), 0o600), os.WriteFile(disk, []byte("disk"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := d.CloneDisk(t.Context(), "system", disk); err != nil {
		t.Fatal(err)
	}
	return d
}

func store(t *testing.T, l *Library, name string) model.Snapshot {
	t.Helper()
	s, err := l.Store(t.Context(), draft(t, l), snapshot.Meta{Spec: spec(), Fingerprint: "f"}, Label{Name: name, VM: "web", VMID: model.NewID(), Pause: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func export(t *testing.T, l *Library, ref string) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := l.Export(t.Context(), ref, &out, nil); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestSealed claims that a home knows its own snapshots, wherever they were meanwhile.
func TestSealed(t *testing.T) {
	home, other := t.TempDir(), open(t, t.TempDir())
	l := open(t, home)
	s := store(t, l, "mine")
	if !s.Sealed || s.Env != 1 || len(s.Disks) != 1 || s.ImageID != spec().ImageID {
		t.Errorf("the stored snapshot is %+v; want a sealed one with its spec", s)
	}
	stream := export(t, l, "mine")
	foreign, err := other.Import(t.Context(), bytes.NewReader(stream), "", nil)
	if err != nil || foreign.Sealed || foreign.Name != "mine" {
		t.Errorf("the snapshot of another home is %+v, %v; want one without a valid seal", foreign, err)
	}
	l = open(t, home)
	back, err := l.Import(t.Context(), bytes.NewReader(export(t, other, "mine")), "back", nil)
	if err != nil || !back.Sealed {
		t.Errorf("a snapshot that was with another home came back as %+v, %v; want a sealed one", back, err)
	}
	list, err := l.List(t.Context())
	if err != nil || len(list) != 2 || !list[0].Sealed || !list[1].Sealed {
		t.Errorf("the list is %+v, %v; want two sealed snapshots", list, err)
	}
}

// TestNoAdoption claims that a snapshot without a seal never becomes the home's own: it may be
// a stranger's. A home whose key is lost knows none of its older snapshots.
func TestNoAdoption(t *testing.T) {
	home := t.TempDir()
	l := open(t, home)
	store(t, l, "mine")
	d := draft(t, l) // commits as a version without seals did, also for an import
	d.SumDisks = true
	if _, err := d.Commit(t.Context(), snapshot.Meta{Spec: spec(), Fingerprint: "f", Extra: []byte(`{"name":"old","vm":"web","vm_id":"0123456789abcdef"}`)}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := os.Remove(filepath.Join(home, "key")); err != nil {
			t.Fatal(err)
		}
		l = open(t, home)
		list, err := l.List(t.Context())
		if err != nil || len(list) != 2 {
			t.Fatal(list, err)
		}
		for _, s := range list {
			if s.Sealed {
				t.Errorf("after the start with a new key, snapshot %s counts as the home's own", s.Name)
			}
		}
	}
	if s, err := l.Import(t.Context(), bytes.NewReader(export(t, l, "old")), "back", nil); err != nil || s.Sealed {
		t.Errorf("imported, the snapshot is %+v, %v; want one without a valid seal", s, err)
	}
}

// TestNamingDoesNotWait claims that neither a name nor a look at what snapshots need reads all of
// a snapshot, and that a new snapshot's files are read without the lock on names.
func TestNamingDoesNotWait(t *testing.T) {
	l := open(t, t.TempDir())
	s := store(t, l, "mine")
	memory := filepath.Join(l.Dir(s.ID), "memory")
	if err := os.Chtimes(memory, time.Now(), time.Now()); err != nil { // Open now reads it
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := snapshot.Open(canceled, l.Dir(s.ID)); err == nil {
		t.Fatal("the snapshot is opened without reading it, so this test shows nothing")
	}
	if err := os.Chmod(memory, 0); err != nil {
		t.Fatal(err)
	}
	needed := ""
	if err := l.References(func(name string, spec model.Spec) { needed = name + " " + spec.ImageID }); err != nil || needed != "mine "+spec().ImageID {
		t.Errorf("the references are %q, %v", needed, err)
	}
	if _, err := l.FreeName("mine"); fault.KindOf(err) != fault.Exists {
		t.Errorf("the taken name: %v", err)
	}
	l.naming.Lock() // held by somebody else
	done := make(chan error, 1)
	d := draft(t, l)
	go func() { done <- d.Fill(context.Background()) }()
	if err := <-done; err != nil {
		t.Error(err)
	}
	l.naming.Unlock()
}

// TestNamesOfStrangers claims that no name in a stream is believed.
func TestNamesOfStrangers(t *testing.T) {
	l := open(t, t.TempDir())
	for _, own := range []string{"0123456789abcdef", "deadbeef", "../x", "", "a\nb"} {
		name, notices, err := l.nameImported(own, "")
		if err != nil || model.CheckName(name) != nil || len(notices) != 1 {
			t.Errorf("a snapshot that calls itself %q is called %q, %+v, %v; want a random name and a notice", own, name, notices, err)
		}
	}
}
