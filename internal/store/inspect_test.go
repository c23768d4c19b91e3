package store

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"banger/internal/fault"
)

// TestInspectChangesNothing inspects a database whose daemon was killed: its last record is not in
// the main file yet.
func TestInspectChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	if err := s.PutVM(t.Context(), record("a", "one")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.db.Exec(`INSERT INTO vms VALUES ('b', 'two', 1, '{')`); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	found, err := Inspect(t.Context(), path, t.TempDir())
	if err != nil || len(found.VMs) != 1 || found.VMs[0].Spec.Name != "one" || !slices.Equal(found.Unreadable, []string{"b"}) {
		t.Errorf("found %+v, %v", found, err)
	}
	after, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(after) != len(before) {
		t.Errorf("the files were %v and are %v, %v", before, after, err)
	}
}

func TestInspectDamage(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "db")
	s := open(t, whole)
	for i := range 200 {
		if err := s.PutVM(context.Background(), record(string(rune('a'+i)), "vm-"+string(rune('a'+i)))); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	noise := slices.Clone(data)
	for i := 4096; i < len(noise); i++ {
		noise[i] ^= byte(i)
	}
	for name, c := range map[string]struct {
		data []byte
		want fault.Kind
	}{
		"no database": {[]byte("not SQLite at all, and long enough to tell that it is none\n"), fault.Damaged},
		"cut off":     {data[:len(data)/2], fault.Damaged},
		"noise":       {noise, fault.Damaged},
		"empty":       {nil, fault.NotFound},
		"whole":       {data, ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			if err := os.WriteFile(path, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Inspect(t.Context(), path, t.TempDir()); fault.KindOf(err) != c.want {
				t.Errorf("got %v (%s), want %q", err, fault.KindOf(err), c.want)
			}
			if got, err := os.ReadFile(path); err != nil || len(got) != len(c.data) {
				t.Errorf("the file has changed: %d bytes, %v", len(got), err)
			}
		})
	}
	if _, err := Inspect(t.Context(), filepath.Join(t.TempDir(), "none")); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a missing database: %v", err)
	}
}
