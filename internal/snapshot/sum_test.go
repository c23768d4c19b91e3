package snapshot

import (
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
)

// TestSum compares files that differ only in holes, and files that differ in data.
func TestSum(t *testing.T) {
	sum := func(size int64, data map[int64][]byte) sums {
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		writeSparse(t, f, size, data)
		s, err := sumFile(t.Context(), f, size, true)
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
	for name, got := range map[string]sums{
		"moved":   sum(size, map[int64][]byte{2*chunkSize + 77: a}),
		"shifted": sum(size, map[int64][]byte{chunkSize + 78: a}),
		"zero":    sum(size, nil),
		"more":    sum(size, map[int64][]byte{chunkSize + 77: a, size - 1: {1}}),
	} {
		if got.sum == want.sum || got.digest == want.digest {
			t.Errorf("%s: other data has the same sum or digest", name)
		}
	}
	// The generator of CRC-32C (RFC 3720, section 12.1), in the order of its bits: a difference
	// that no CRC shows.
	forged := append([]byte(nil), a...)
	for i := range 5 {
		forged[100+i] ^= byte((1 | uint64(crc32.Castagnoli)<<1) >> (8 * i))
	}
	got := sum(size, map[int64][]byte{chunkSize + 77: forged})
	if got.sum != want.sum {
		t.Error("the forged data has another sum, so the test of its digest shows nothing")
	}
	if got.digest == want.digest {
		t.Error("forged data has the same digest")
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
	for name, digest := range map[string]bool{"sum": false, "digest": true} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				if _, err := sumFile(b.Context(), f, size, digest); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
