package api

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger/internal/fault"
)

func newFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestSparse(t *testing.T) {
	const mib = 1 << 20
	for what, data := range map[string]map[int64]string{
		"nothing":            {},
		"data at both ends":  {0: "start", 16*mib - 3: "end"},
		"data in the middle": {8 * mib: strings.Repeat("x", mib)},
	} {
		from, to := newFile(t), newFile(t)
		size := int64(16 * mib)
		if err := from.Truncate(size); err != nil {
			t.Fatal(err)
		}
		for at, text := range data {
			if _, err := from.WriteAt([]byte(text), at); err != nil {
				t.Fatal(err)
			}
		}
		packed, err := io.ReadAll(PackSparse(from, size))
		if err != nil {
			t.Fatal(err)
		}
		if len(packed) > 3*mib {
			t.Errorf("%s: %d bytes were packed", what, len(packed))
		}
		if err := UnpackSparse(to, bytes.NewReader(packed), size); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		want, _ := os.ReadFile(from.Name())
		got, _ := os.ReadFile(to.Name())
		if !bytes.Equal(got, want) {
			t.Errorf("%s: the file came back as %d other bytes", what, len(got))
		}
		var st syscall.Stat_t
		if err := syscall.Stat(to.Name(), &st); err != nil || st.Blocks*512 > 3*mib {
			t.Errorf("%s: the file takes %d bytes on the disk, %v", what, st.Blocks*512, err)
		}
	}
}

// sparse writes headers and data: pairs of offset and length, the data all "x".
func sparse(numbers ...uint64) []byte {
	var b []byte
	for i := 0; i < len(numbers); i += 2 {
		b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, numbers[i]), numbers[i+1])
		b = append(b, strings.Repeat("x", int(min(numbers[i+1], 100)))...)
	}
	return b
}

func TestHostileSparse(t *testing.T) {
	for what, data := range map[string][]byte{
		"nothing":              {},
		"half a header":        sparse(0, 0)[:9],
		"no end":               sparse(0, 10),
		"data that is cut off": sparse(0, 10)[:20],
		"not in order":         sparse(100, 10, 50, 10, 200, 0),
		"an end within":        sparse(100, 10, 50, 0),
		"a large offset":       sparse(1<<40, 10, 1<<40+10, 0),
		"a large length":       sparse(0, 1<<40),
		"an overflow":          sparse(1<<63, 1<<63),
		"a large size":         sparse(1<<40, 0),
		"more after the end":   append(sparse(10, 0), 1),
	} {
		f := newFile(t)
		err := UnpackSparse(f, bytes.NewReader(data), 1<<20)
		if fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v (%s)", what, err, fault.KindOf(err))
		}
		if info, err := f.Stat(); err != nil || info.Size() > 1<<20 {
			t.Errorf("%s: the file has %d bytes, %v", what, info.Size(), err)
		}
	}
}

func FuzzUnpackSparse(f *testing.F) {
	f.Add(sparse(0, 10, 100, 20, 4096, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		file := newFile(t)
		if err := UnpackSparse(file, bytes.NewReader(data), 1<<20); err != nil {
			return
		}
		if info, err := file.Stat(); err != nil || info.Size() > 1<<20 {
			t.Errorf("the file has %d bytes, %v", info.Size(), err)
		}
	})
}
