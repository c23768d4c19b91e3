package image

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/testkit"
)

// TestImportOnAFullDisk imports an image with ever more room on the disk until it succeeds. Before,
// the import says that the disk is full. Nothing of it is left, and an image that exists stays
// whole.
func TestImportOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=700,size=48m")
	testkit.Require(t, "root", err == nil, fmt.Sprintf("mounting a tmpfs: %v", err))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	s := openStore(t, dir, Options{})
	elsewhere := t.TempDir()
	first := write(t, filepath.Join(elsewhere, "first.tar"), makeTar(t, rootFiles...))
	second := write(t, filepath.Join(elsewhere, "second.tar"), makeTar(t, append(rootFiles, file{name: "big", body: strings.Repeat("x", 1<<20)})...))
	kept, err := s.Import(t.Context(), first, ImportOptions{Name: "first:1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	refused, succeeded := 0, false
	for leave := int64(0); !succeeded && leave < 40<<20; leave += max(4<<10, leave/8) {
		fill(t, dir, leave)
		img, err := s.Import(t.Context(), second, ImportOptions{Name: "second:1"}, nil)
		if err == nil {
			succeeded = true
		} else {
			refused++
			if fault.KindOf(err) != fault.Unavailable || !strings.Contains(strings.ToLower(fault.HintOf(err)), "free some space") {
				t.Errorf("with %d KiB left: %v, with the hint %q", leave>>10, err, fault.HintOf(err))
			}
			if got, err := s.Get("second:1"); err == nil {
				t.Errorf("with %d KiB left, the import failed and the image %s exists", leave>>10, got.ID)
			}
		}
		nothingLeft(t, s)
		if got, err := s.Get("first:1"); err != nil || got.ID != kept.ID {
			t.Errorf("with %d KiB left, the image that existed is %v, %v", leave>>10, got.ID, err)
		}
		if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
			t.Fatal(err)
		}
		if succeeded {
			fsck(t, img.Path)
		}
	}
	if refused == 0 || !succeeded {
		t.Errorf("%d imports were refused, and one succeeded: %v", refused, succeeded)
	}
}

// fill uses up the room of a file system except for some bytes.
func fill(t *testing.T, dir string, leave int64) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, max(int64(st.Bavail)*st.Bsize-leave, 1)); err != nil {
		t.Fatal(err)
	}
}
