package ram

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/testkit"
)

// guest is memory of this process that plays a guest's.
type guest struct {
	t   testing.TB
	mem []byte
}

// boot maps private memory of nothing, or of a base.
func boot(t testing.TB, size int, base *os.File) guest {
	t.Helper()
	fd, flags := -1, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS
	if base != nil {
		fd, flags = int(base.Fd()), unix.MAP_PRIVATE
	}
	mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	return guest{t, mem}
}

func (g guest) region() Region {
	return Region{PID: os.Getpid(), Addr: uint64(uintptr(unsafe.Pointer(&g.mem[0]))), Size: int64(len(g.mem))}
}

// page returns a page of the guest.
func (g guest) page(i int) []byte { return g.mem[i*pageSize : (i+1)*pageSize] }

// scribble writes to some pages, zero to others, and reads others.
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
	from := random.IntN(n / 2) // and a long run of each kind
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

// copied copies a guest that changes between the passes.
func copied(t testing.TB, g guest, base *os.File, between func()) *os.File {
	t.Helper()
	out := create(t)
	c, err := Begin(t.Context(), g.region(), base, out)
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

// same checks a file's content, and that zero is holes.
func same(t testing.TB, f *os.File, want []byte) {
	t.Helper()
	got, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<40))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Fatalf("%d bytes, not %d", len(got), len(want))
	}
	for i := 0; i < len(want); i += pageSize {
		if !bytes.Equal(got[i:i+pageSize], want[i:i+pageSize]) {
			t.Fatalf("page %d differs", i/pageSize)
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

// TestGenerations copies a guest, forks it from the copy, copies the fork, and so on; each changes between the passes, or has one only.
func TestGenerations(t *testing.T) {
	const size = 20<<20 + 3*pageSize // not a whole number of chunks
	var base *os.File
	for i := range 6 {
		g := boot(t, size, base)
		if base != nil {
			same(t, base, g.mem)
			if i%2 == 0 { // the file's name is of no use
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
			t.Errorf("%d bytes of data are in the file, %d of the guest are not zero", got, want)
		}
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
			if err := unix.Madvise(g.page(2), unix.MADV_DONTNEED); err != nil { // as if a balloon took it
				t.Fatal(err)
			}
		})
		t.Log(name)
		same(t, out, g.mem)
	}
}

// TestOtherFileSystem copies a fork to another file system than its base's.
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

// TestDig makes holes of what is zero.
func TestDig(t *testing.T) {
	const pages = 3 * bounced
	content := make([]byte, pages*pageSize)
	for _, page := range []int{0, 5, bounced - 1, bounced, 2*bounced + 1} {
		content[page*pageSize+100] = 1
	}
	f := create(t)
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	before := data(t, f)
	if err := Dig(f); err != nil {
		t.Fatal(err)
	}
	same(t, f, content)
	if after := data(t, f); before != len(content) || after > 16*pageSize {
		t.Errorf("%d bytes of data were %d before", after, before)
	}
}

func TestLook(t *testing.T) {
	base := create(t)
	if err := base.Truncate(16 * pageSize); err != nil {
		t.Fatal(err)
	}
	cold, fork := boot(t, 16*pageSize, nil), boot(t, 16*pageSize, base)
	if err := unix.Madvise(cold.mem[4*pageSize:8*pageSize], unix.MADV_SEQUENTIAL); err != nil { // splits the mapping
		t.Fatal(err)
	}
	for want, g := range map[Backing]guest{Nothing: cold, File: fork} {
		if got, err := Look(g.region()); err != nil || got != want {
			t.Errorf("it is of %v (%v), not %v", got, err, want)
		}
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
	for name, r := range map[string]Region{
		"shared": guest{t, shared}.region(), "not the file's beginning": later, "longer than the mapping": longer,
		"not there": {PID: os.Getpid(), Addr: pageSize, Size: pageSize},
	} {
		if _, err := Look(r); fault.KindOf(err) != fault.Unsupported {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, line := range []string{"x\n", "1-2 rw-p\n", "zz-2 rw-p 0 00:00 0\n", "1-2 rw-p 0 00:00 x\n"} {
		if _, err := backing([]byte(line), cold.region()); err == nil {
			t.Errorf("%q passed", line)
		}
	}
}

func TestBegin(t *testing.T) {
	g := boot(t, 16*pageSize, nil)
	full := create(t)
	if _, err := full.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := Begin(t.Context(), g.region(), nil, full); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a file that is not empty: %v", err)
	}
	r := g.region()
	r.Size--
	if _, err := Begin(t.Context(), r, nil, create(t)); fault.KindOf(err) != fault.Invalid {
		t.Errorf("half a page: %v", err)
	}
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	c, err := Begin(ctx, g.region(), nil, create(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.First(ctx); !errors.Is(err, why) {
		t.Errorf("with an ended context: %v", err)
	}
	if _, err := Begin(ctx, g.region(), full, create(t)); !errors.Is(err, why) {
		t.Errorf("copying a base with an ended context: %v", err)
	}
	r = g.region()
	r.PID = 1 << 30
	if _, err := Begin(t.Context(), r, nil, create(t)); err == nil || Denied(err) {
		t.Errorf("no such process: %v", err)
	}
}

// TestFull copies to a file system that gets full, in either pass.
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
		c, err := Begin(t.Context(), g.region(), nil, out)
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
			t.Errorf("%d pages before: %v", before, err)
		}
	}
}

// BenchmarkPasses shows what a pause costs beside the first pass.
func BenchmarkPasses(b *testing.B) {
	g := boot(b, 512<<20, nil)
	if err := unix.Madvise(g.mem, unix.MADV_HUGEPAGE); err != nil { // as QEMU does
		b.Fatal(err)
	}
	for i := range 112 << 20 / pageSize {
		g.page(i)[1] = 1
	}
	var first, last time.Duration
	for b.Loop() {
		out := create(b)
		c, err := Begin(b.Context(), g.region(), nil, out)
		if err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		err = c.First(b.Context())
		between := time.Now()
		if err := errors.Join(err, c.Last(b.Context())); err != nil {
			b.Fatal(err)
		}
		first, last = first+between.Sub(began), last+time.Since(between)
		if err := errors.Join(c.Close(), out.Close(), os.Remove(out.Name())); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(first.Microseconds())/1000/float64(b.N), "ms/first")
	b.ReportMetric(float64(last.Microseconds())/1000/float64(b.N), "ms/last")
}
