package memory

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/testkit"
)

// guest is memory of this process that stands for a guest's.
type guest struct {
	t   testing.TB
	mem []byte
}

// boot maps private memory of nothing, or of a base from its beginning.
func boot(t testing.TB, size int, base *os.File) guest {
	t.Helper()
	return bootAt(t, size, base, 0)
}

func bootAt(t testing.TB, size int, base *os.File, offset int64) guest {
	t.Helper()
	fd, flags := -1, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS
	if base != nil {
		fd, flags = int(base.Fd()), unix.MAP_PRIVATE
	}
	mem, err := unix.Mmap(fd, offset, size, unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	return guest{t, mem}
}

func (g guest) region() Region {
	return Region{Addr: uint64(uintptr(unsafe.Pointer(&g.mem[0]))), Size: int64(len(g.mem))}
}

func (g guest) regions() []Region { return []Region{g.region()} }

// begin begins a copy of memory of this process.
func begin(ctx context.Context, regions []Region, base, out *os.File) (*Copy, error) {
	return Begin(ctx, os.Getpid(), regions, base, out)
}

// page returns a page of the guest.
func (g guest) page(i int) []byte { return g.mem[i*pageSize : (i+1)*pageSize] }

// scribble writes to some pages, clears some, and reads some.
func (g guest) scribble(seed uint64) {
	random := rand.New(rand.NewPCG(seed, seed))
	n := len(g.mem) / pageSize
	for range n / 4 {
		p := g.page(random.IntN(n))
		switch random.IntN(4) {
		case 0:
			clear(p)
		case 1:
			_ = p[0]
		default:
			p[random.IntN(pageSize)] = byte(1 + random.IntN(255))
		}
	}
	from := random.IntN(n / 2) // and a long run of each
	for i := from; i < from+n/8; i++ {
		g.page(i)[i%pageSize] = 1
	}
	clear(g.mem[len(g.mem)*3/4 : len(g.mem)*7/8])
}

func create(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// copied copies a guest that changes between the passes. Without a change there is one pass only.
func copied(t testing.TB, g guest, base *os.File, between func()) *os.File {
	t.Helper()
	return copiedRegions(t, g.regions(), base, between)
}

func copiedRegions(t testing.TB, regions []Region, base *os.File, between func()) *os.File {
	t.Helper()
	out := create(t)
	c, err := begin(t.Context(), regions, base, out)
	if err != nil {
		t.Fatal(err)
	}
	if between != nil {
		if err := c.First(t.Context()); err != nil {
			t.Fatal(err)
		}
		between()
	}
	if err := errors.Join(c.Last(t.Context()), c.Close(), c.Close()); err != nil {
		t.Fatal(err)
	}
	return out
}

// same checks a file's content.
func same(t testing.TB, f *os.File, want []byte) {
	t.Helper()
	got, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<40))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Fatalf("the copy does not have the guest's size: %d bytes, not %d", len(got), len(want))
	}
	for i := 0; i < len(want); i += pageSize {
		if !bytes.Equal(got[i:i+pageSize], want[i:i+pageSize]) {
			t.Fatalf("the copy does not have the guest's content: page %d differs", i/pageSize)
		}
	}
}

// data counts a file's bytes that are not holes.
func data(t testing.TB, f *os.File) int {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for at := int64(0); at < info.Size(); {
		start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		end, err2 := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		sum += int(end - start)
		at = end
	}
	return sum
}

func nonzero(mem []byte) int {
	sum := 0
	for i := 0; i < len(mem); i += pageSize {
		if !bytes.Equal(mem[i:i+pageSize], zero[:]) {
			sum += pageSize
		}
	}
	return sum
}

// TestGenerations copies a guest, forks the copy, copies the fork, and so on. Each guest changes
// between the passes, or is copied in one pass.
func TestGenerations(t *testing.T) {
	const size = 20<<20 + 3*pageSize // not a whole number of chunks
	var base *os.File
	for i := range 6 {
		g := boot(t, size, base)
		if base != nil {
			same(t, base, g.mem)
			if i%2 == 0 { // a base needs no name
				if err := os.Remove(base.Name()); err != nil {
					t.Fatal(err)
				}
			}
		}
		g.scribble(uint64(2 * i))
		between := func() { g.scribble(uint64(2*i + 1)) }
		if i == 3 {
			between = nil
		}
		out := copied(t, g, base, between)
		same(t, out, g.mem)
		if got, want := data(t, out), nonzero(g.mem); base == nil && got > want*5/4 {
			t.Errorf("zero pages are not holes: the file has %d bytes of data, the guest %d that are not zero", got, want)
		}
		base = out
	}
}

// TestRegions copies a guest whose memory is in two places, with a gap between them in the file.
// Then it copies forks, which map the copy at the same offsets.
func TestRegions(t *testing.T) {
	const low, high = 17<<20 + 3*pageSize, 5 << 20 // bytes; low is not a whole number of chunks
	const gap = 18 << 20                           // where high begins in the file
	var base *os.File
	for i := range 3 {
		lower, upper := bootAt(t, low, base, 0), bootAt(t, high, base, gap)
		regions := []Region{lower.region(), upper.region()}
		regions[1].Offset = gap
		if got, err := Look(os.Getpid(), regions); err != nil || (got != Nothing) != (base != nil) {
			t.Fatalf("generation %d: two regions are taken for mappings of %v: %v", i, got, err)
		}
		lower.scribble(uint64(4 * i))
		upper.scribble(uint64(4*i + 1))
		out := copiedRegions(t, regions, base, func() {
			lower.scribble(uint64(4*i + 2))
			upper.scribble(uint64(4*i + 3))
		})
		all := make([]byte, gap+high)
		copy(all, lower.mem)
		copy(all[gap:], upper.mem)
		same(t, out, all)
		base = out
	}
}

// TestBetween changes pages between the passes in every way.
func TestBetween(t *testing.T) {
	base := create(t)
	if _, err := base.Write(bytes.Repeat([]byte{7}, 64*pageSize)); err != nil {
		t.Fatal(err)
	}
	for name, base := range map[string]*os.File{"cold": nil, "fork": base} {
		g := boot(t, 64*pageSize, base)
		for i := range 8 {
			g.page(i)[0] = 1
		}
		clear(g.page(8))
		out := copied(t, g, base, func() {
			g.page(0)[0] = 2
			clear(g.page(1))
			g.page(8)[5] = 1
			g.page(9)[5] = 1
			clear(g.page(10))
			// As a balloon does:
			if err := unix.Madvise(g.page(2), unix.MADV_DONTNEED); err != nil {
				t.Fatal(err)
			}
		})
		t.Log(name)
		same(t, out, g.mem)
	}
}

// TestOtherFileSystem copies a fork to a file system that its base is not on.
func TestOtherFileSystem(t *testing.T) {
	fd, err := unix.MemfdCreate("base", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	base := os.NewFile(uintptr(fd), "base")
	defer base.Close()
	if err := base.Truncate(1024 * pageSize); err != nil {
		t.Fatal(err)
	}
	for _, page := range []int64{0, 1, 2, 511, 1023} {
		if _, err := base.WriteAt([]byte{byte(page)}, page*pageSize+7); err != nil {
			t.Fatal(err)
		}
	}
	g := boot(t, 1024*pageSize, base)
	g.scribble(1)
	same(t, copied(t, g, base, func() { g.scribble(2) }), g.mem)
}

func TestBegin(t *testing.T) {
	g := boot(t, 16*pageSize, nil)
	full := create(t)
	if _, err := full.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := begin(t.Context(), g.regions(), nil, full); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a file that is not empty is not refused: %v", err)
	}
	for name, regions := range map[string][]Region{
		"no region":              nil,
		"half a page":            {{Size: pageSize / 2}},
		"a negative size":        {{Size: -pageSize}},
		"an odd offset":          {{Size: pageSize, Offset: pageSize}},
		"a negative offset":      {{Size: pageSize, Offset: -align}},
		"regions that overlap":   {{Size: 2 * align}, {Size: pageSize, Offset: align}},
		"regions in wrong order": {{Size: pageSize, Offset: align}, {Size: pageSize}},
		"too large an offset":    {{Size: align, Offset: 1 << 62}},
	} {
		if _, err := begin(t.Context(), regions, nil, create(t)); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: it is not refused as invalid: %v", name, err)
		}
	}
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	c, err := begin(ctx, g.regions(), nil, create(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.First(ctx); !errors.Is(err, why) {
		t.Errorf("a pass does not end with its context: %v", err)
	}
	if _, err := begin(ctx, g.regions(), full, create(t)); !errors.Is(err, why) {
		t.Errorf("copying a base does not end with its context: %v", err)
	}
	if _, err := Begin(t.Context(), 1<<30, g.regions(), nil, create(t)); err == nil || Denied(err) {
		t.Errorf("a process that does not exist is not refused, or is taken for one that may not be read: %v", err)
	}
}

// TestFull copies to a file system that becomes full, in either pass.
func TestFull(t *testing.T) {
	testkit.Require(t, "root", os.Geteuid() == 0, "a small file system has to be mounted")
	for _, before := range []int{1, 600} {
		dir := t.TempDir()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(dir, unix.MNT_DETACH)
		out, err := os.Create(filepath.Join(dir, "memory"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		g := boot(t, 1024*pageSize, nil)
		fill := func(n int) {
			for i := range n {
				g.page(i)[0] = 1
			}
		}
		fill(before)
		c, err := begin(t.Context(), g.regions(), nil, out)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		err = c.First(t.Context())
		if before == 1 && err == nil {
			fill(600)
			err = c.Last(t.Context())
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("with %d pages before the first pass, a full file system is not reported: %v", before, err)
		}
	}
}
