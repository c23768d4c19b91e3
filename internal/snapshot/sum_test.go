package snapshot

import (
	"os"
	"path/filepath"
	"testing"
)

// TestSum compares files that differ only in holes, and files that differ in data.
func TestSum(t *testing.T) {
	sum := func(size int64, data map[int64][]byte) string {
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		writeSparse(t, f, size, data)
		s, err := sumFile(t.Context(), f, size)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	const size = 4*chunkSize + 5
	a := noise(1, 5000)
	want := sum(size, map[int64][]byte{chunkSize + 77: a})
	dense := make([]byte, size)
	copy(dense[chunkSize+77:], a)
	if got := sum(size, map[int64][]byte{0: dense}); got != want {
		t.Error("a file with other holes has another sum")
	}
	for name, got := range map[string]string{
		"moved":   sum(size, map[int64][]byte{2*chunkSize + 77: a}),
		"shifted": sum(size, map[int64][]byte{chunkSize + 78: a}),
		"zero":    sum(size, nil),
		"more":    sum(size, map[int64][]byte{chunkSize + 77: a, size - 1: {1}}),
	} {
		if got == want {
			t.Errorf("%s: other data has the same sum", name)
		}
	}
}

func BenchmarkSum(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "f"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	const size = 256 << 20
	writeSparse(b, f, size, map[int64][]byte{0: noise(1, size)})
	b.SetBytes(size)
	for b.Loop() {
		if _, err := sumFile(b.Context(), f, size); err != nil {
			b.Fatal(err)
		}
	}
}
