package snapshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/testkit"
)

// entries returns the names in a directory.
func entries(t testing.TB, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// noise returns n bytes that do not compress.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// writeSparse gives f a size, and data at some offsets.
func writeSparse(t testing.TB, f *os.File, size int64, data map[int64][]byte) {
	t.Helper()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for at, b := range data {
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
}

const testMemory = 8<<20 + 4096

// memoryData returns data at both ends, in the middle of a chunk, and across two chunks.
func memoryData() map[int64][]byte {
	return map[int64][]byte{
		0: noise(1, 4096), 3*chunkSize + 4096: noise(2, 8192), 5*chunkSize - 4096: noise(3, 8192), testMemory - 4096: noise(4, 4096),
	}
}

var testMeta = Meta{
	Created: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Driver: "qemu", Fingerprint: "f1", Generation: 1,
	Spec:  model.Spec{Name: "box", Image: "debian:bookworm", ImageID: "i", Kernel: "debian", KernelID: "k", VCPUs: 2, Memory: 512 * model.MiB},
	Extra: json.RawMessage(`{"pause":7}`),
}

// draft makes a full draft with two disks.
func draft(t testing.TB, dir string) *Draft {
	t.Helper()
	d, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Discard() })
	memory, err := d.Memory()
	if err != nil {
		t.Fatal(err)
	}
	writeSparse(t, memory, testMemory, memoryData())
	if err := os.WriteFile(d.Device(), noise(5, 70_000), 0o644); err != nil {
		t.Fatal(err)
	}
	src, err := os.Create(filepath.Join(t.TempDir(), "src"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	writeSparse(t, src, 64<<20, map[int64][]byte{1 << 20: noise(6, 300_000)})
	for _, name := range []string{"system", "work-2"} {
		if err := d.CloneDisk(t.Context(), name, src.Name()); err != nil {
			t.Fatal(err)
		}
	}
	d.SumDisks = true
	return d
}

func commit(t testing.TB, dir string) *Snapshot {
	t.Helper()
	s, err := draft(t, dir).Commit(t.Context(), testMeta)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRoundTrip(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "snapshots")
	dir := filepath.Join(parent, "a")
	d := draft(t, dir)
	if _, err := Open(t.Context(), dir); fault.KindOf(err) != fault.NotFound {
		t.Errorf("opening before the commit: got %v, want fault.NotFound", err)
	}
	made, err := d.Commit(t.Context(), testMeta)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Discard(), d.Discard()); err != nil {
		t.Errorf("Discard after Commit: %v", err)
	}
	s, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	meta := s.Meta()
	if !reflect.DeepEqual(meta, made.Meta()) || meta.Kind != model.SnapshotFull || meta.Fingerprint != "f1" ||
		meta.Spec.Image != "debian:bookworm" ||
		!meta.Created.Equal(testMeta.Created) || string(meta.Extra) != `{"pause":7}` || meta.Memory.Size != testMemory || len(meta.Disks) != 2 || s.Dir() != dir {
		t.Errorf("opened %+v\nmade %+v", meta, made.Meta())
	}
	if err := s.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	sameContent(t, s)
	u, err := s.Usage()
	if err != nil || u.Apparent < testMemory+128<<20 || u.Allocated > 4*model.MiB || u.Allocated == 0 || u.Own+u.Shared != u.Allocated {
		t.Errorf("the usage is wrong: %+v, %v", u, err)
	}
	for _, name := range append(entries(t, dir), ".") {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: mode %v, %v", name, info.Mode(), err)
		}
	}
	if got := entries(t, parent); len(got) != 1 {
		t.Errorf("want only the snapshot, got %v", got)
	}
}

// sameContent compares the files with those of draft.
func sameContent(t *testing.T, s *Snapshot) {
	t.Helper()
	memory, err := s.OpenMemory()
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	want := make([]byte, testMemory)
	for at, b := range memoryData() {
		copy(want[at:], b)
	}
	if got, err := io.ReadAll(memory); err != nil || !bytes.Equal(got, want) {
		t.Errorf("memory differs, %v", err)
	}
	device, err := s.OpenDevice()
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	if got, err := io.ReadAll(device); err != nil || !bytes.Equal(got, noise(5, 70_000)) {
		t.Errorf("device differs, %v", err)
	}
	path, ok := s.DiskPath("work-2")
	if _, other := s.DiskPath("other"); !ok || other {
		t.Errorf("disk paths %q %v %v", path, ok, other)
	}
	got, err := os.ReadFile(path)
	want = make([]byte, 64<<20)
	copy(want[1<<20:], noise(6, 300_000))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("disk differs, %v", err)
	}
}

// TestDamage opens and verifies a snapshot after one change.
func TestDamage(t *testing.T) {
	flip := func(name string, at int64) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			var b [1]byte
			f.ReadAt(b[:], at)
			b[0] ^= 4
			if _, err := f.WriteAt(b[:], at); err != nil {
				t.Fatal(err)
			}
		}
	}
	truncate := func(name string, size int64) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, name), size); err != nil {
				t.Fatal(err)
			}
		}
	}
	replace := func(name string, do func(path string) error) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, name)
			if err := errors.Join(os.Remove(path), do(path)); err != nil {
				t.Fatal(err)
			}
		}
	}
	chmod := func(name string, mode os.FileMode) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	setBack := func(name string, spoil func(*testing.T, string)) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, name)
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond) // longer than a tick of the kernel's clock
			spoil(t, dir)
			if err := os.Chtimes(path, time.Time{}, info.ModTime()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
	}{
		{name: "memory, data", spoil: flip(memoryFile, 4000)},
		{name: "memory, hole", spoil: flip(memoryFile, 2<<20)},
		{name: "memory, last byte", spoil: flip(memoryFile, testMemory-1)},
		{name: "memory, shorter", spoil: truncate(memoryFile, testMemory-1)},
		{name: "memory, longer", spoil: truncate(memoryFile, testMemory+1)},
		{name: "device", spoil: flip(deviceFile, 69_999)},
		{name: "device, shorter", spoil: truncate(deviceFile, 1)},
		{name: "disk, longer", spoil: truncate("system.ext4", 65<<20)},
		{name: "disk", spoil: flip("system.ext4", 1<<20)},
		{name: "memory, its time set back", spoil: setBack(memoryFile, flip(memoryFile, 4000))},
		{name: "disk, its time set back", spoil: setBack("system.ext4", flip("system.ext4", 1<<20))},
		{name: "no memory", spoil: replace(memoryFile, func(string) error { return nil })},
		{name: "no disk", spoil: replace("work-2.ext4", func(string) error { return nil })},
		{name: "no meta", spoil: replace(metaFile, func(string) error { return nil })},
		{name: "empty meta", spoil: truncate(metaFile, 0)},
		{name: "long meta", spoil: truncate(metaFile, 1<<40)},
		{name: "memory is a link", spoil: replace(memoryFile, func(p string) error { return os.Symlink("device", p) })},
		{name: "memory is a pipe", spoil: replace(memoryFile, func(p string) error { return unix.Mkfifo(p, 0o600) })},
		{name: "memory is a directory", spoil: replace(memoryFile, func(p string) error { return os.Mkdir(p, 0o700) })},
		{name: "meta is a link", spoil: replace(metaFile, func(p string) error { return os.Symlink("/dev/zero", p) })},
		{name: "meta is a pipe", spoil: replace(metaFile, func(p string) error { return unix.Mkfifo(p, 0o600) })},
		{name: "readable directory", spoil: chmod(".", 0o755)},
		{name: "writable memory", spoil: chmod(memoryFile, 0o620)},
		{name: "readable meta", spoil: chmod(metaFile, 0o604)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a")
			before := commit(t, dir)
			tt.spoil(t, dir)
			_, err := Open(t.Context(), dir)
			if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), dir) {
				t.Errorf("got %v of kind %q, want fault.Invalid and the path", err, fault.KindOf(err))
			}
			if strings.HasPrefix(tt.name, "memory") {
				if f, err := before.OpenMemory(); fault.KindOf(err) != fault.Invalid {
					f.Close()
					t.Errorf("opening the memory after the damage: got %v, want fault.Invalid", err)
				}
			}
		})
	}
}

func TestForeign(t *testing.T) {
	testkit.Require(t, "root", os.Geteuid() == 0, "only root gives files away")
	for _, name := range []string{".", memoryFile, "system.ext4", metaFile} {
		dir := filepath.Join(t.TempDir(), "a")
		commit(t, dir)
		if err := os.Chown(filepath.Join(dir, name), 12345, -1); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), dir); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "12345") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOpenNothing(t *testing.T) {
	dir := t.TempDir()
	commit(t, filepath.Join(dir, "a"))
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink("a", link)); err != nil {
		t.Fatal(err)
	}
	for path, kind := range map[string]fault.Kind{filepath.Join(dir, "none"): fault.NotFound, file: fault.Invalid, link: fault.Invalid, dir: fault.Invalid} {
		if _, err := Open(t.Context(), path); fault.KindOf(err) != kind {
			t.Errorf("%s: %v, want %q", path, err, kind)
		}
	}
}

// TestCopied opens a copy of a snapshot whose files have other times and other holes.
func TestCopied(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	commit(t, dir)
	memory := filepath.Join(dir, memoryFile)
	data, err := os.ReadFile(memory)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(memory, data, 0o600); err != nil { // without holes
		t.Fatal(err)
	}
	old := time.Unix(1, 0)
	if err := os.Chtimes(memory, old, old); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(memory)
	if err != nil || info.ModTime().UnixNano() != s.Meta().Memory.Modified {
		t.Errorf("Open did not restore the time: %v, %v", info.ModTime(), err)
	}
	sameContent(t, s)
	if err := s.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRemove(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "a")
	s := commit(t, dir)
	memory, err := s.OpenMemory()
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	if err := errors.Join(Remove(dir), Remove(dir), Remove(filepath.Join(dir, "b"))); err != nil {
		t.Error(err)
	}
	if got := entries(t, parent); len(got) != 0 {
		t.Errorf("left over: %v", got)
	}
	if _, err := memory.ReadAt(make([]byte, 1), testMemory-1); err != nil {
		t.Errorf("reading memory that was opened before Remove: %v", err)
	}
	if _, err := s.OpenMemory(); fault.KindOf(err) != fault.NotFound {
		t.Errorf("opening memory after Remove: %v", err)
	}
	if err := s.Verify(t.Context()); fault.KindOf(err) != fault.NotFound {
		t.Errorf("Verify after Remove: %v", err)
	}
	// Remove removes a link, not the link's target.
	other := commit(t, filepath.Join(parent, "b"))
	if err := errors.Join(os.Symlink("b", dir), Remove(dir)); err != nil {
		t.Error(err)
	}
	if err := other.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}
