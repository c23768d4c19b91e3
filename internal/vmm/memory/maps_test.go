package memory

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
)

// TestLook looks at mappings of each kind, and at what is not one private mapping.
func TestLook(t *testing.T) {
	base := create(t)
	if err := base.Truncate(16 * pageSize); err != nil {
		t.Fatal(err)
	}
	cold, fork := boot(t, 16*pageSize, nil), boot(t, 16*pageSize, base)
	// This splits the mapping:
	if err := unix.Madvise(cold.mem[4*pageSize:8*pageSize], unix.MADV_SEQUENTIAL); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(base.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if got, err := Look(os.Getpid(), cold.regions()); err != nil || got != Nothing {
		t.Errorf("a mapping of nothing is taken for one of %v (%v)", got, err)
	}
	if got, err := Look(os.Getpid(), fork.regions()); err != nil || got.Inode != st.Ino || got.Device == 0 {
		t.Errorf("a mapping of inode %d is taken for one of %v (%v)", st.Ino, got, err)
	}
	shared, err := unix.Mmap(int(base.Fd()), 0, 16*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(shared)
	later := fork.region()
	later.Addr, later.Size = later.Addr+pageSize, later.Size-pageSize
	longer := cold.region()
	longer.Size = 1 << 45
	elsewhere := fork.region()
	elsewhere.Offset = pageSize
	for name, r := range map[string][]Region{
		"a shared mapping":                   guest{t, shared}.regions(),
		"a region that begins later":         {later},
		"a region at another offset":         {elsewhere},
		"a region longer than the mapping":   {longer},
		"a region that is not mapped":        {{Addr: pageSize, Size: pageSize}},
		"regions that map different things":  {cold.region(), fork.region()},
		"one good region and one unmapped":   {cold.region(), {Addr: pageSize, Size: pageSize}},
		"one good region and a shared other": {fork.region(), guest{t, shared}.region()},
	} {
		if _, err := Look(os.Getpid(), r); fault.KindOf(err) != fault.Unsupported {
			t.Errorf("%s is not refused as unsupported: %v", name, err)
		}
	}
	for _, line := range []string{"x\n", "1-2 rw-p\n", "zz-2 rw-p 0 00:00 0\n", "1-2 rw-p 0 00:00 x\n", fmt.Sprintf("%x-%x rw-p 0 zz 1\n", cold.region().Addr, cold.region().Addr+uint64(cold.region().Size))} {
		if _, err := backing([]byte(line), cold.regions()); err == nil {
			t.Errorf("the line %q of maps is accepted", line)
		}
	}
}
