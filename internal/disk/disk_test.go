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
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/testkit"
)

// names returns the files of a directory. Tests use it to see that nothing is left over.
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
				t.Errorf("got %v of kind %q, want %q", err, fault.KindOf(err), tt.kind)
			}
			if got := names(t, dir); len(got) != 0 {
				t.Errorf("left over: %v", got)
			}
		})
	}
}

func TestCreateWithoutMkfs(t *testing.T) {
	if _, err := os.Stat("/usr/sbin/mkfs.ext4"); err == nil {
		// A tool in an administrators' directory is found whatever PATH is. This test proves that.
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
			t.Errorf("%s: got %v with hint %q, want an error about a full disk", name, err, fault.HintOf(err))
		}
		if got := names(t, dir); len(got) != 0 {
			t.Errorf("%s: left over: %v", name, got)
		}
	}
}

// TestCreateIsSmall checks that an empty disk is small, because each VM has one, and that it has
// room to grow, because some guests lose data without it.
func TestCreateIsSmall(t *testing.T) {
	testkit.RequireTool(t, "mkfs.ext4")
	testkit.RequireTool(t, "dumpe2fs")
	path := filepath.Join(t.TempDir(), "disk")
	for _, size := range []model.Bytes{model.MinDiskSize, 256 * model.MiB, 10 * model.GiB} {
		if err := disk.Create(t.Context(), path, size); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || st.Blocks*512 > 1<<20 {
			t.Errorf("an empty disk of %v allocates %d bytes, %v", size, st.Blocks*512, err)
		}
		out, err := exec.Command("dumpe2fs", "-h", path).Output()
		if err != nil || !regexp.MustCompile(`(?m)^Reserved GDT blocks: +12\d$`).Match(out) || !bytes.Contains(out, []byte("has_journal")) {
			t.Errorf("a disk of %v has no room to grow (%v):\n%s", size, err, out)
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
		t.Errorf("after growing: apparent %v, allocated %v, %v", apparent, allocated, err)
	}
	if err := disk.Grow(path+"x", model.GiB); fault.KindOf(err) != fault.NotFound {
		t.Errorf("growing a missing file: got %v, want a fault.NotFound", err)
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
		t.Errorf("cloning a missing file: got %v, want a fault.NotFound", err)
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

// TestShared clones by reference, which few file systems can do, and looks at the common blocks.
func TestShared(t *testing.T) {
	plain, err := os.Create(filepath.Join(t.TempDir(), "plain"))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := plain.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if shared, err := disk.Shared(plain); shared != 0 || err != nil {
		t.Errorf("a file without a copy shares %v, %v", shared, err)
	}
	from, to := btrfsFiles(t)
	const pieces = 200 // more extents than one call asks for
	for i := range int64(pieces) {
		if _, err := from.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 4096), i*8192); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(from.Sync(), disk.CloneFile(t.Context(), from, to)); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*os.File{from, to} {
		if shared, err := disk.Shared(f); shared != pieces*4*model.KiB || err != nil {
			t.Errorf("%s shares %v, %v", f.Name(), shared, err)
		}
	}
	if _, err := to.WriteAt(make([]byte, 4096), 8192); err != nil {
		t.Fatal(err)
	}
	if err := to.Sync(); err != nil {
		t.Fatal(err)
	}
	if shared, err := disk.Shared(to); shared != (pieces-1)*4*model.KiB || err != nil {
		t.Errorf("after a write the copy shares %v, %v", shared, err)
	}
}

// btrfsFiles makes two empty files on a fresh file system that can share blocks.
func btrfsFiles(t *testing.T) (a, b *os.File) {
	t.Helper()
	requireTool(t, "mkfs.btrfs")
	testkit.Require(t, "root", os.Geteuid() == 0, "only root mounts a btrfs")
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 256<<20)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.btrfs", "-q", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.btrfs: %v\n%s", err, out)
	}
	out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput()
	testkit.Require(t, "btrfs", err == nil, fmt.Sprintf("mounting it: %v %s", err, out))
	t.Cleanup(func() { exec.Command("umount", dir).Run() })
	a, err = os.Create(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	b, err = os.Create(filepath.Join(dir, "b"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return a, b
}

func TestExtents(t *testing.T) {
	for _, tt := range []struct {
		name string
		size int64
		data map[int64][]byte
		ask  int64
		want []disk.Extent
	}{
		{"empty", 0, nil, 0, nil},
		{"a hole", 1 << 20, nil, 1 << 20, nil},
		{"data in between", 1 << 20, map[int64][]byte{64 << 10: make([]byte, 4096)}, 1 << 20, []disk.Extent{{64 << 10, 68 << 10}}},
		{"both ends", 1 << 20, map[int64][]byte{0: {1}, 1<<20 - 1: {1}}, 1 << 20, []disk.Extent{{0, 4096}, {1<<20 - 4096, 1 << 20}}},
		{"an odd end", 1<<20 + 10, map[int64][]byte{1 << 20: make([]byte, 10)}, 1<<20 + 10, []disk.Extent{{1 << 20, 1<<20 + 10}}},
		{"the first part", 1 << 20, map[int64][]byte{0: make([]byte, 8192), 64 << 10: {1}}, 5000, []disk.Extent{{0, 5000}}},
		{"a part without", 1 << 20, map[int64][]byte{64 << 10: {1}}, 4096, nil},
	} {
		path := filepath.Join(t.TempDir(), "f")
		writeSparse(t, path, tt.size, tt.data)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var got []disk.Extent
		for e, err := range disk.Extents(f, tt.ask) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	closed, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, err := range disk.Extents(closed, 1) {
		if err == nil {
			t.Error("Extents found data in a closed file")
		}
	}
}
