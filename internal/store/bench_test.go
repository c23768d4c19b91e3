package store

import (
	"path/filepath"
	"testing"

	"banger/internal/model"
)

// BenchmarkPutVM measures one durable record. A start writes several.
func BenchmarkPutVM(b *testing.B) {
	s, err := Open(b.Context(), filepath.Join(b.TempDir(), "db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	v := record("a", "one")
	for b.Loop() {
		v.State = model.Running
		if err := s.PutVM(b.Context(), v); err != nil {
			b.Fatal(err)
		}
	}
}
