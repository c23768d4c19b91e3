package memory

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReserve: the memory of a fork, which has no file, keeps its holes. A file on a tmpfs with a
// size gets the space of its holes, also when its name is gone.
func TestReserve(t *testing.T) {
	const size = 1 << 20
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	reserves(t, "a memfd", os.NewFile(uintptr(fd), "test"), size, 0)

	const dir = "/dev/shm"
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || fs.Blocks == 0 {
		t.Skipf("%s is no tmpfs with a size: %v", dir, err)
	}
	for _, named := range []bool{true, false} {
		f, err := os.CreateTemp(dir, "banger-test-")
		if err != nil {
			t.Fatal(err)
		}
		what := "a file on a tmpfs"
		if named {
			t.Cleanup(func() { _ = os.Remove(f.Name()) })
		} else {
			what += " without a name"
			if err := os.Remove(f.Name()); err != nil {
				t.Fatal(err)
			}
		}
		reserves(t, what, f, size, size)
	}
}

// reserves checks how much space a file that is one hole has after Reserve.
func reserves(t *testing.T, what string, f *os.File, size, want int64) {
	t.Helper()
	defer f.Close()
	var st unix.Stat_t
	if err := errors.Join(f.Truncate(size), Reserve(t.Context(), f), unix.Fstat(int(f.Fd()), &st)); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if got := st.Blocks * 512; got != want {
		t.Errorf("%s has %d bytes of space after Reserve, not %d", what, got, want)
	}
}
