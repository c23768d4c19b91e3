package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/testkit"
)

// smallDisk mounts a file system of its own for a test.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size)
	testkit.Require(t, "root", err == nil, fmt.Sprintf("mounting a tmpfs: %v", err))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// fill writes until nothing fits any more, and returns the file that it wrote.
func fill(t *testing.T, dir string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, zeros{}); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling %s: %v", dir, err)
	}
	return f.Name()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestReserve stores records on a full disk, until the reserve is used up as well.
func TestReserve(t *testing.T) {
	dir := smallDisk(t, "32m")
	reserve := filepath.Join(dir, "reserve")
	s := openWith(t, filepath.Join(dir, "banger.db"), Options{Reserve: reserve})
	if err := s.Replenish(); err != nil {
		t.Fatal(err)
	}
	filler := fill(t, dir)
	for n := range 20 {
		v := record(strconv.Itoa(n), "vm-"+strconv.Itoa(n))
		if err := s.PutVM(t.Context(), v); err != nil {
			t.Fatalf("record %d on a full disk: %v", n, err)
		}
		if err := s.DeleteVM(t.Context(), v.ID); err != nil {
			t.Fatalf("deleting record %d on a full disk: %v", n, err)
		}
		fill(t, dir) // other programs take what was released
	}
	if err := s.Replenish(); err != nil {
		t.Errorf("replenishing on a full disk: %v", err)
	}
	var err error
	for n := 0; err == nil && n < 1<<14; n++ {
		err = s.PutVM(t.Context(), record("more-"+strconv.Itoa(n), "more-"+strconv.Itoa(n)))
	}
	if fault.KindOf(err) != fault.Unavailable || fault.HintOf(err) == "" {
		t.Errorf("with an empty reserve: %v, hint %q", err, fault.HintOf(err))
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := s.Replenish(); err != nil {
		t.Error(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(reserve, &st); err != nil || st.Size != reserveSize || st.Blocks*512 < reserveSize {
		t.Errorf("the reserve has %d bytes in %d blocks, %v", st.Size, st.Blocks, err)
	}
}

// TestOpenOnAFullDisk opens the database of a daemon that was killed, as the next daemon would.
func TestOpenOnAFullDisk(t *testing.T) {
	dir := smallDisk(t, "32m")
	opts := Options{Reserve: filepath.Join(dir, "reserve"), Backups: filepath.Join(dir, "backups")}
	path := filepath.Join(dir, "banger.db")
	s := openWith(t, path, opts)
	if err := errors.Join(s.Replenish(), s.PutVM(t.Context(), record("a", "one")), s.Close()); err != nil {
		t.Fatal(err)
	}
	fill(t, dir)
	s = openWith(t, path, opts)
	if vms, err := s.VMs(t.Context()); err != nil || len(vms) != 1 {
		t.Errorf("the records are %v, %v", vms, err)
	}
	if err := s.DeleteVM(t.Context(), "a"); err != nil {
		t.Errorf("deleting a record: %v", err)
	}
}

// TestReserveLeavesRoom does not take the last space of a disk.
func TestReserveLeavesRoom(t *testing.T) {
	dir := smallDisk(t, "8m")
	reserve := filepath.Join(dir, "reserve")
	s := openWith(t, filepath.Join(dir, "banger.db"), Options{Reserve: reserve})
	if err := s.Replenish(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(reserve); err == nil && info.Size() > 0 {
		t.Errorf("the reserve has %d bytes", info.Size())
	}
}
