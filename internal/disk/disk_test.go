package disk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/testkit"
)

// names are the files of a folder: tests use it to see that nothing is left over.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var n []string
	for _, e := range entries {
		n = append(n, e.Name())
	}
	return n
}

func TestCreate(t *testing.T) {
	requireTool(t, "mkfs.ext4")
	requireTool(t, "e2fsck")
	dir := t.TempDir()
	path := filepath.Join(dir, "system.ext4")
	if err := disk.Create(t.Context(), path, 10*model.GiB); err != nil {
		t.Fatal(err)
	}
	apparent, allocated, err := disk.Usage(path)
	if err != nil || apparent != 10*model.GiB || allocated > 64*model.MiB {
		t.Errorf("apparent %v, allocated %v, %v; want 10G and little", apparent, allocated, err)
	}
	fsck(t, path)
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("files %v, want only the disk", got)
	}
}

func requireTool(t *testing.T, name string) {
	t.Helper()
	_, err := disk.Tool(name, "e2fsprogs")
	testkit.Require(t, name, err == nil, "not on this machine")
}

func fsck(t *testing.T, path string) {
	t.Helper()
	tool, _ := disk.Tool("e2fsck", "e2fsprogs")
	if out, err := exec.Command(tool, "-fn", path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

func TestCreateFailsCleanly(t *testing.T) {
	requireTool(t, "mkfs.ext4")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name string
		ctx  context.Context
		size model.Bytes
		kind fault.Kind
	}{
		{"too small", t.Context(), 1 * model.MiB, fault.Invalid},
		{"too large", t.Context(), 17 * model.TiB, fault.Invalid},
		{"cancelled", cancelled, 1 * model.GiB, fault.Canceled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			err := disk.Create(tt.ctx, filepath.Join(dir, "d"), tt.size)
			if fault.KindOf(err) != tt.kind {
				t.Errorf("error %v of kind %q, want %q", err, fault.KindOf(err), tt.kind)
			}
			if got := names(t, dir); len(got) != 0 {
				t.Errorf("left over: %v", got)
			}
		})
	}
}

func TestCreateWithoutMkfs(t *testing.T) {
	if _, err := os.Stat("/usr/sbin/mkfs.ext4"); err == nil {
		// A tool in the administrators' folders is found whatever PATH is, which is the point.
		t.Setenv("PATH", "/nonexistent")
		if err := disk.Create(t.Context(), filepath.Join(t.TempDir(), "d"), model.GiB); err != nil {
			t.Errorf("with an empty PATH: %v", err)
		}
	}
	_, err := disk.Tool("no-such-tool", "e2fsprogs")
	if fault.KindOf(err) != fault.Unsupported || !strings.Contains(fault.HintOf(err), "apt install e2fsprogs") {
		t.Errorf("error %v with hint %q, want unsupported and the package", err, fault.HintOf(err))
	}
}

// TestFull makes and clones disks on a file system that has no room for them.
func TestFull(t *testing.T) {
	requireTool(t, "mkfs.ext4")
	dir := t.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=128k")
	testkit.Require(t, "root", err == nil, fmt.Sprintf("mounting a tmpfs: %v", err))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, bytes.Repeat([]byte("x"), 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func() error{
		"create": func() error { return disk.Create(t.Context(), filepath.Join(dir, "d"), 10*model.GiB) },
		"clone":  func() error { return disk.Clone(t.Context(), src, filepath.Join(dir, "d")) },
	} {
		err := do()
		if fault.KindOf(err) != fault.Unavailable || fault.HintOf(err) == "" || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: error %v with hint %q, want one that says that the disk is full", name, err, fault.HintOf(err))
		}
		if got := names(t, dir); len(got) != 0 {
			t.Errorf("%s: left over: %v", name, got)
		}
	}
}

func TestGrow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		size model.Bytes
		kind fault.Kind
	}{
		{64 * model.MiB, ""}, {64 * model.MiB, ""}, {32 * model.MiB, fault.Invalid}, {17 * model.TiB, fault.Invalid}, {model.GiB, ""},
	} {
		if err := disk.Grow(path, tt.size); fault.KindOf(err) != tt.kind {
			t.Errorf("growing to %v: %v, want kind %q", tt.size, err, tt.kind)
		}
	}
	if apparent, allocated, err := disk.Usage(path); err != nil || apparent != model.GiB || allocated > model.MiB {
		t.Errorf("apparent %v, allocated %v, %v", apparent, allocated, err)
	}
	if err := disk.Grow(path+"x", model.GiB); fault.KindOf(err) != fault.NotFound {
		t.Errorf("growing what is not there: %v", err)
	}
}

func TestClone(t *testing.T) {
	random := make([]byte, 300_001)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(random)
	for _, tt := range []struct {
		name string
		size int64
		data map[int64][]byte
	}{
		{"empty", 0, nil},
		{"one hole", 64 << 20, nil},
		{"data at both ends", 64<<20 + 17, map[int64][]byte{0: random, 64<<20 + 16: {1}}},
		{"odd places", 60 << 20, map[int64][]byte{4097: random, 50<<20 + 3: random[:5]}},
		{"dense", int64(len(random)), map[int64][]byte{0: random}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
			writeSparse(t, src, tt.size, tt.data)
			if err := os.WriteFile(dst, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := disk.Clone(t.Context(), src, dst); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("cmp", src, dst).CombinedOutput(); err != nil {
				t.Errorf("cmp: %v %s", err, out)
			}
			_, a, _ := disk.Usage(src)
			if _, b, _ := disk.Usage(dst); b > a+model.MiB {
				t.Errorf("the copy has %v allocated, the original %v", b, a)
			}
			if got := names(t, dir); len(got) != 2 {
				t.Errorf("files %v, want two", got)
			}
		})
	}
}

func writeSparse(t *testing.T, path string, size int64, data map[int64][]byte) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for at, b := range data {
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCloneFailsCleanly(t *testing.T) {
	dir := t.TempDir()
	if err := disk.Clone(t.Context(), filepath.Join(dir, "none"), filepath.Join(dir, "dst")); fault.KindOf(err) != fault.NotFound {
		t.Errorf("cloning what is not there: %v", err)
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("left over: %v", got)
	}
}

func BenchmarkCreate(b *testing.B) {
	if _, err := disk.Tool("mkfs.ext4", "e2fsprogs"); err != nil {
		b.Skip(err)
	}
	dir := b.TempDir()
	for b.Loop() {
		if err := disk.Create(b.Context(), filepath.Join(dir, "d"), 10*model.GiB); err != nil {
			b.Fatal(err)
		}
	}
}
