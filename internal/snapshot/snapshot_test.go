package snapshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/testkit"
)

// entries are the names in a folder.
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

// writeSparse makes f of the given size, with data at some places.
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

// memoryData has data at both ends, in the middle of a chunk, and across two.
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
		t.Errorf("before the commit: %v", err)
	}
	made, err := d.Commit(t.Context(), testMeta)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Discard(), d.Discard()); err != nil {
		t.Errorf("discarding what was committed: %v", err)
	}
	s, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	meta := s.Meta()
	if !reflect.DeepEqual(meta, made.Meta()) || meta.Kind != model.SnapshotFull || meta.Fingerprint != "f1" || meta.Spec.Image != "debian:bookworm" ||
		!meta.Created.Equal(testMeta.Created) || string(meta.Extra) != `{"pause":7}` || meta.Memory.Size != testMemory || len(meta.Disks) != 2 || s.Dir() != dir {
		t.Errorf("opened %+v\nmade %+v", meta, made.Meta())
	}
	if err := s.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	sameContent(t, s)
	u, err := s.Usage()
	if err != nil || u.Apparent < testMemory+128<<20 || u.Allocated > 4*model.MiB || u.Allocated == 0 || u.Own+u.Shared != u.Allocated {
		t.Errorf("usage %+v, %v", u, err)
	}
	for _, name := range append(entries(t, dir), ".") {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
	if got := entries(t, parent); len(got) != 1 {
		t.Errorf("files %v", got)
	}
}

// sameContent compares the files with what draft puts into them.
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

func TestDisksOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	d, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Commit(t.Context(), Meta{}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("committing nothing: %v", err)
	}
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, []byte("disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "A", "../x", "a/b", "a.b", strings.Repeat("x", maxName+1)} {
		if err := d.CloneDisk(t.Context(), name, src); fault.KindOf(err) != fault.Invalid {
			t.Errorf("a disk of the name %q: %v", name, err)
		}
	}
	if err := d.CloneDisk(t.Context(), "system", src); err != nil {
		t.Fatal(err)
	}
	s, err := d.Commit(t.Context(), Meta{})
	if err != nil {
		t.Fatal(err)
	}
	if m := s.Meta(); m.Kind != model.SnapshotDisk || m.Disks[0].Sum != "" || m.Created.IsZero() {
		t.Errorf("%+v", m)
	}
	if _, err := s.OpenMemory(); fault.KindOf(err) != fault.NotFound {
		t.Errorf("its memory: %v", err)
	}
	if _, err := Open(t.Context(), dir); err != nil {
		t.Error(err)
	}
	if err := s.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCommitRefuses(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, d *Draft) context.Context{
		"no device":    func(t *testing.T, d *Draft) context.Context { os.Remove(d.Device()); return t.Context() },
		"empty device": func(t *testing.T, d *Draft) context.Context { os.Truncate(d.Device(), 0); return t.Context() },
		"large device": func(t *testing.T, d *Draft) context.Context {
			os.Truncate(d.Device(), int64(maxDevice)+1)
			return t.Context()
		},
		"a link": func(t *testing.T, d *Draft) context.Context {
			os.Rename(d.Device(), d.Device()+"2")
			os.Symlink("device2", d.Device())
			return t.Context()
		},
		"a pipe": func(t *testing.T, d *Draft) context.Context {
			os.Remove(d.Device())
			unix.Mkfifo(d.Device(), 0o600)
			return t.Context()
		},
		"canceled": func(t *testing.T, d *Draft) context.Context {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return ctx
		},
		"somebody first": func(t *testing.T, d *Draft) context.Context { os.Mkdir(d.dir, 0o700); return t.Context() },
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			d := draft(t, filepath.Join(parent, "a"))
			want := map[string]fault.Kind{"canceled": fault.Canceled, "somebody first": fault.Exists}[name]
			if want == "" {
				want = fault.Invalid
			}
			if _, err := d.Commit(spoil(t, d), testMeta); fault.KindOf(err) != want {
				t.Errorf("error %v of kind %q, want %q", err, fault.KindOf(err), want)
			}
			if err := d.Discard(); err != nil {
				t.Error(err)
			}
			if got := entries(t, parent); len(got) != 0 && (name != "somebody first" || len(got) != 1) {
				t.Errorf("left over: %v", got)
			}
		})
	}
}

// TestDamage opens and verifies a snapshot after one thing about it was changed.
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
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		late  bool // seen by Verify only
	}{
		{name: "memory, data", spoil: flip(memoryFile, 4000)},
		{name: "memory, hole", spoil: flip(memoryFile, 2<<20)},
		{name: "memory, last byte", spoil: flip(memoryFile, testMemory-1)},
		{name: "memory, shorter", spoil: truncate(memoryFile, testMemory-1)},
		{name: "memory, longer", spoil: truncate(memoryFile, testMemory+1)},
		{name: "device", spoil: flip(deviceFile, 69_999)},
		{name: "device, shorter", spoil: truncate(deviceFile, 1)},
		{name: "disk, longer", spoil: truncate("system.ext4", 65<<20)},
		{name: "disk", spoil: flip("system.ext4", 1<<20), late: true},
		{name: "no memory", spoil: replace(memoryFile, func(string) error { return nil })},
		{name: "no disk", spoil: replace("work-2.ext4", func(string) error { return nil })},
		{name: "no meta", spoil: replace(metaFile, func(string) error { return nil })},
		{name: "empty meta", spoil: truncate(metaFile, 0)},
		{name: "long meta", spoil: truncate(metaFile, 1<<40)},
		{name: "memory is a link", spoil: replace(memoryFile, func(p string) error { return os.Symlink("device", p) })},
		{name: "memory is a pipe", spoil: replace(memoryFile, func(p string) error { return unix.Mkfifo(p, 0o600) })},
		{name: "memory is a folder", spoil: replace(memoryFile, func(p string) error { return os.Mkdir(p, 0o700) })},
		{name: "meta is a link", spoil: replace(metaFile, func(p string) error { return os.Symlink("/dev/zero", p) })},
		{name: "meta is a pipe", spoil: replace(metaFile, func(p string) error { return unix.Mkfifo(p, 0o600) })},
		{name: "readable folder", spoil: chmod(".", 0o755)},
		{name: "writable memory", spoil: chmod(memoryFile, 0o620)},
		{name: "readable meta", spoil: chmod(metaFile, 0o604)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a")
			before := commit(t, dir)
			tt.spoil(t, dir)
			s, err := Open(t.Context(), dir)
			if tt.late {
				if err != nil {
					t.Fatal(err)
				}
				err = s.Verify(t.Context())
			}
			if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), dir) {
				t.Errorf("error %v of kind %q", err, fault.KindOf(err))
			}
			if strings.HasPrefix(tt.name, "memory") {
				if f, err := before.OpenMemory(); fault.KindOf(err) != fault.Invalid {
					f.Close()
					t.Errorf("the memory of one that was opened before: %v", err)
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

// TestEveryBitOfMeta flips each bit of a description.
func TestEveryBitOfMeta(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(commit(t, filepath.Join(t.TempDir(), "a")).Dir(), metaFile))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decodeMeta(data); err != nil {
		t.Fatal(err)
	}
	for i := range data {
		for bit := range 8 {
			data[i] ^= 1 << bit
			if _, err := decodeMeta(data); fault.KindOf(err) != fault.Invalid {
				t.Errorf("byte %d bit %d: %v", i, bit, err)
			}
			data[i] ^= 1 << bit
		}
	}
}

// TestMetaRefused has descriptions whose sum is right.
func TestMetaRefused(t *testing.T) {
	good := commit(t, filepath.Join(t.TempDir(), "a")).Meta()
	for name, spoil := range map[string]func(*Meta){
		"newer":          func(m *Meta) { m.Version = version + 1 },
		"version 0":      func(m *Meta) { m.Version = 0 },
		"no kind":        func(m *Meta) { m.Kind = "" },
		"wrong kind":     func(m *Meta) { m.Kind = model.SnapshotDisk },
		"no time":        func(m *Meta) { m.Created = time.Time{} },
		"no memory":      func(m *Meta) { m.Memory = nil },
		"no device":      func(m *Meta) { m.Device = nil },
		"nothing":        func(m *Meta) { m.Kind, m.Memory, m.Device, m.Disks = model.SnapshotDisk, nil, nil, nil },
		"many disks":     func(m *Meta) { m.Disks = make([]Disk, maxDisks+1) },
		"negative":       func(m *Meta) { m.Memory.Size = -1 },
		"empty":          func(m *Meta) { m.Device.Size = 0 },
		"huge memory":    func(m *Meta) { m.Memory.Size = model.MaxMemory + 1 },
		"huge disk":      func(m *Meta) { m.Disks[0].Size = model.MaxDiskSize + 1 },
		"huge device":    func(m *Meta) { m.Device.Size = maxDevice + 1 },
		"no sum":         func(m *Meta) { m.Memory.Sum = "" },
		"wrong sum":      func(m *Meta) { m.Disks[0].Sum = strings.Repeat("X", sumLen) },
		"short sum":      func(m *Meta) { m.Device.Sum = "00" },
		"way out":        func(m *Meta) { m.Disks[1].Name = "../../x" },
		"no name":        func(m *Meta) { m.Disks[1].Name = "" },
		"two of a name":  func(m *Meta) { m.Disks[1].Name = m.Disks[0].Name },
		"a NUL in there": func(m *Meta) { m.Disks[1].Name = "a\x00" },
	} {
		m := good.clone()
		spoil(&m)
		data, err := encodeMeta(m)
		if err != nil {
			t.Fatal(err)
		}
		_, err = decodeMeta(data)
		if fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
		if newer := name == "newer"; newer != (fault.HintOf(err) != "") {
			t.Errorf("%s: hint %q", name, fault.HintOf(err))
		}
	}
	good.Extra = json.RawMessage(`"` + strings.Repeat("x", maxMeta) + `"`)
	if _, err := encodeMeta(good); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a long description: %v", err)
	}
}

func FuzzMeta(f *testing.F) {
	good := testMeta
	good.Version, good.Kind = version, model.SnapshotDisk
	good.Disks = []Disk{{"system", File{Size: 1}}}
	for _, m := range []Meta{good, {}, {Version: version + 1}} {
		data, err := encodeMeta(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data[len(metaHead)+sumLen+len(metaMid) : len(data)-len(metaTail)])
	}
	f.Add([]byte(`{"version":1,"disks":[{"name":"../x"}],"memory":{"size":1e99}}`))
	f.Fuzz(func(t *testing.T, inner []byte) {
		// As it is, and as what a right sum protects.
		for _, data := range [][]byte{inner, sealMeta(inner)} {
			m, err := decodeMeta(data)
			if err != nil {
				if fault.KindOf(err) != fault.Invalid {
					t.Errorf("error %v of kind %q", err, fault.KindOf(err))
				}
				continue
			}
			for _, file := range m.files() {
				if filepath.Base(file.name) != file.name || file.Size < 1 || file.Size > file.max {
					t.Errorf("it takes %+v", file)
				}
			}
			again, err := encodeMeta(m)
			if err != nil {
				continue // it may be longer when it is written by us
			}
			if _, err := decodeMeta(again); err != nil {
				t.Errorf("it does not read what it wrote: %v", err)
			}
		}
	})
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
	if err := os.WriteFile(memory, data, 0o600); err != nil { // no holes any more
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
		t.Errorf("the time is %v, %v", info.ModTime(), err)
	}
	sameContent(t, s)
	if err := s.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestCrash kills a process in each phase of making and removing a snapshot.
func TestCrash(t *testing.T) {
	phases := []string{"begun", "filled", "synced", "renamed", "out of sight"}
	if dir := os.Getenv("BANGER_TEST_CRASH_DIR"); dir != "" {
		crash := func(phase string) {
			if phase == os.Getenv("BANGER_TEST_CRASH_PHASE") {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
		d := draft(t, dir)
		d.hook = crash
		crash("begun")
		s, err := d.Commit(t.Context(), testMeta)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(s.Dir(), tempName(s.Dir())); err != nil { // as Remove does first
			t.Fatal(err)
		}
		crash("out of sight")
		t.Fatal("it lives")
	}
	for _, phase := range phases {
		t.Run(phase, func(t *testing.T) {
			t.Parallel()
			parent := t.TempDir()
			dir := filepath.Join(parent, "a")
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestCrash$")
			cmd.Env = append(os.Environ(), "BANGER_TEST_CRASH_DIR="+dir, "BANGER_TEST_CRASH_PHASE="+phase, "TMPDIR="+t.TempDir())
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("it ended with %v: %s", err, out)
			}
			s, err := Open(t.Context(), dir)
			if want := phase == "renamed"; want != (err == nil) || !want && fault.KindOf(err) != fault.NotFound {
				t.Errorf("after the crash: %v", err)
			}
			if err := CleanTemp(parent); err != nil {
				t.Error(err)
			}
			if s != nil {
				if err := s.Verify(t.Context()); err != nil {
					t.Error(err)
				}
				sameContent(t, s)
				if err := Remove(dir); err != nil {
					t.Error(err)
				}
			}
			if got := entries(t, parent); len(got) != 0 {
				t.Errorf("left over: %v", got)
			}
			commit(t, dir)
		})
	}
}

// TestConcurrent has several who want the same name, while somebody cleans up all the time.
func TestConcurrent(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "a")
	stop := make(chan struct{})
	var cleaner, makers sync.WaitGroup
	cleaner.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := CleanTemp(parent); err != nil {
				t.Error(err)
			}
		}
	})
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, []byte("disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	var won atomic.Int32
	for range 8 {
		makers.Go(func() {
			d, err := Create(dir)
			if fault.KindOf(err) == fault.Exists {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			defer func() {
				if err := d.Discard(); err != nil {
					t.Error(err)
				}
			}()
			if err := d.CloneDisk(t.Context(), "system", src); err != nil {
				t.Error(err)
			}
			switch _, err := d.Commit(t.Context(), Meta{}); fault.KindOf(err) {
			case "":
				won.Add(1)
			case fault.Exists:
			default:
				t.Error(err)
			}
		})
	}
	makers.Wait()
	close(stop)
	cleaner.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of them have committed", won.Load())
	}
	if _, err := Open(t.Context(), dir); err != nil {
		t.Error(err)
	}
	if got := entries(t, parent); len(got) != 1 {
		t.Errorf("files %v", got)
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
		t.Errorf("reading memory that was opened before: %v", err)
	}
	if _, err := s.OpenMemory(); fault.KindOf(err) != fault.NotFound {
		t.Errorf("opening memory that was removed: %v", err)
	}
	if err := s.Verify(t.Context()); fault.KindOf(err) != fault.NotFound {
		t.Errorf("verifying what was removed: %v", err)
	}
	// A link is removed, not what it leads to.
	other := commit(t, filepath.Join(parent, "b"))
	if err := errors.Join(os.Symlink("b", dir), Remove(dir)); err != nil {
		t.Error(err)
	}
	if err := other.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCleanTemp(t *testing.T) {
	parent := t.TempDir()
	if err := CleanTemp(filepath.Join(parent, "none")); err != nil {
		t.Error(err)
	}
	live := draft(t, filepath.Join(parent, "live"))
	keep := []string{"snapshot", disk.TempPrefix + "system.ext4-1"} // the second is a file: not ours
	if err := errors.Join(os.Mkdir(filepath.Join(parent, keep[0]), 0o700), os.WriteFile(filepath.Join(parent, keep[1]), nil, 0o600),
		os.MkdirAll(filepath.Join(parent, disk.TempPrefix+"x-1", "deep"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := CleanTemp(parent); err != nil {
		t.Error(err)
	}
	if got := entries(t, parent); len(got) != 3 {
		t.Errorf("files %v, want a draft and %v", got, keep)
	}
	if _, err := live.Commit(t.Context(), testMeta); err != nil {
		t.Error(err)
	}
}

// TestFull runs out of space in each part of making a snapshot.
func TestFull(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, noise(1, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	small := func(t *testing.T) string {
		dir := t.TempDir()
		err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k")
		testkit.Require(t, "root", err == nil, fmt.Sprintf("mounting a tmpfs: %v", err))
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
		return dir
	}
	check := func(t *testing.T, err error) {
		t.Helper()
		if fault.KindOf(err) != fault.Unavailable || fault.HintOf(err) == "" || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("error %v with hint %q, want one that says that the disk is full", err, fault.HintOf(err))
		}
	}
	t.Run("disk", func(t *testing.T) {
		parent := small(t)
		d, err := Create(filepath.Join(parent, "a"))
		if err != nil {
			t.Fatal(err)
		}
		check(t, d.CloneDisk(t.Context(), "system", src))
		if err := d.Discard(); err != nil || len(entries(t, parent)) != 0 {
			t.Errorf("left over %v, %v", entries(t, parent), err)
		}
	})
	t.Run("meta", func(t *testing.T) {
		parent := small(t)
		d, err := Create(filepath.Join(parent, "a"))
		if err != nil {
			t.Fatal(err)
		}
		memory, err := d.Memory()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(d.Device(), []byte("device"), 0o600); err != nil {
			t.Fatal(err)
		}
		for b := noise(1, 4096); ; { // to the last block
			if _, err := memory.Write(b); err != nil {
				break
			}
		}
		_, err = d.Commit(t.Context(), testMeta)
		check(t, err)
		if err := d.Discard(); err != nil || len(entries(t, parent)) != 0 {
			t.Errorf("left over %v, %v", entries(t, parent), err)
		}
	})
}

// TestSum compares files that differ in holes only, and ones that differ in data.
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
		t.Error("holes make a difference")
	}
	for name, got := range map[string]string{
		"moved":   sum(size, map[int64][]byte{2*chunkSize + 77: a}),
		"shifted": sum(size, map[int64][]byte{chunkSize + 78: a}),
		"zero":    sum(size, nil),
		"more":    sum(size, map[int64][]byte{chunkSize + 77: a, size - 1: {1}}),
	} {
		if got == want {
			t.Errorf("%s: the same sum", name)
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
