// Package memory copies the memory of a guest out of the process that holds it into a file, most
// of it while the guest runs. It serves every driver whose VMM holds the guest's memory as its
// own.
//
// # What is copied
//
// The guest's memory is one or more regions of the process. Each region is a private mapping: of
// nothing, or of a base. A base is a file that an earlier copy made and that nobody changes. The
// process's own pages are those that it has written. Every other page is zero, or is the page of
// the base. So a copy is the data of the base, overwritten with the own pages. Zero pages are
// holes.
//
// # Two passes
//
// The first pass runs while the guest runs. It finds zero pages and makes the file system allocate
// space. The bytes that it reads may be half written. The last pass runs while the guest is
// halted. It reads every own page again, directly into the page cache of the file.
//
// With CONFIG_MEM_SOFT_DIRTY (bit 55 of the pagemap, and clear_refs) the last pass could skip
// pages that did not change. Debian's kernels have this option, but many kernels do not, and it
// costs a page fault at each first write after the first pass.
//
// # Concurrency
//
// The methods of a Copy must not run at the same time. Different Copies are independent.
package memory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"banger/internal/fault"
)

const (
	pageSize = 4096          // of x86
	align    = 64 * pageSize // of a region in the file: a word of a bit set belongs to one region
	chunk    = 16 << 20      // bytes of one task of a worker; a multiple of align
	workers  = 2             // measured: a fifth faster than one, if the cores are idle
)

// Region is a part of a guest's memory.
type Region struct {
	Addr   uint64 // where the process has it
	Size   int64  // bytes; a whole number of pages
	Offset int64  // where it lies in the file, and in the base; a multiple of 256 KiB
}

// Copy is a guest's memory on its way into a file.
type Copy struct {
	pid     int
	tasks   []task
	out     *os.File
	mapped  []byte // out
	pagemap *os.File
	taken   []uint64 // a bit for each page of the file that a pass has read from the process
	holes   []uint64 // a bit for each page of the file that certainly is a hole
}

// task is a part of one region. Pages are numbered by their place in the file.
type task struct {
	from, to int64  // page numbers
	addr     uint64 // where the process would have page 0, if the region began there; it may wrap
}

// Begin prepares a copy to out, an empty file, and copies the base there. The base must be the file
// that the regions map at their offsets; nil means that they map nothing.
func Begin(ctx context.Context, pid int, regions []Region, base, out *os.File) (_ *Copy, err error) {
	c := &Copy{pid: pid, out: out}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("preparing a copy of the guest's memory: %w", err), c.Close())
		}
	}()
	size, err := extent(regions)
	if err != nil {
		return nil, err
	}
	info, err := out.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() != 0 {
		return nil, fault.New(fault.Invalid, "%s is not empty: it holds %d bytes", out.Name(), info.Size())
	}
	if base != nil {
		if err := clone(ctx, base, out); err != nil {
			return nil, err
		}
	}
	if err := out.Truncate(size); err != nil {
		return nil, err
	}
	if c.mapped, err = unix.Mmap(int(out.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("mapping %s: %w", out.Name(), err)
	}
	if c.pagemap, err = os.Open("/proc/" + strconv.Itoa(pid) + "/pagemap"); err != nil {
		return nil, err
	}
	words := (size/pageSize + 63) / 64
	c.taken, c.holes = make([]uint64, words), make([]uint64, words)
	if base == nil {
		for i := range c.holes {
			c.holes[i] = ^uint64(0)
		}
	}
	c.tasks = split(regions)
	return c, nil
}

// extent checks regions, which must follow each other in the file, and returns the file's size.
func extent(regions []Region) (int64, error) {
	size := int64(0)
	for _, r := range regions {
		if r.Size <= 0 || r.Size%pageSize != 0 || r.Offset%align != 0 || r.Offset < size || r.Offset > 1<<62-r.Size {
			return 0, fault.New(fault.Invalid, "a region of %d bytes cannot lie at offset %d, after %d bytes of others",
				r.Size, r.Offset, size)
		}
		size = r.Offset + r.Size
	}
	if size == 0 {
		return 0, fault.New(fault.Invalid, "the guest's memory has no region")
	}
	return size, nil
}

// split makes tasks that begin and end at multiples of chunk in the file, or with a region.
func split(regions []Region) []task {
	var tasks []task
	for _, r := range regions {
		for at, end := r.Offset, r.Offset+r.Size; at < end; {
			next := min(at-at%chunk+chunk, end)
			tasks = append(tasks, task{from: at / pageSize, to: next / pageSize, addr: r.Addr - uint64(r.Offset)})
			at = next
		}
	}
	return tasks
}

// Close releases the file, which stays open.
func (c *Copy) Close() error {
	var errs []error
	if c.mapped != nil {
		errs = append(errs, unix.Munmap(c.mapped))
		c.mapped = nil
	}
	if c.pagemap != nil {
		errs = append(errs, c.pagemap.Close())
		c.pagemap = nil
	}
	return errors.Join(errs...)
}

// First is the pass while the guest runs.
func (c *Copy) First(ctx context.Context) error { return c.pass(ctx, (*worker).first) }

// Last is the pass while the guest is halted. It works without a First, but then it takes longer.
func (c *Copy) Last(ctx context.Context) error { return c.pass(ctx, (*worker).last) }

func (c *Copy) pass(ctx context.Context, do func(*worker, task) error) error {
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range min(workers, runtime.GOMAXPROCS(0)) {
		group.Go(func() error {
			w := newWorker(c)
			for i := next.Add(1) - 1; i < int64(len(c.tasks)); i = next.Add(1) - 1 {
				if err := context.Cause(ctx); err != nil {
					return err
				}
				if err := do(w, c.tasks[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("copying the guest's memory: %w", err)
	}
	return nil
}

// Denied reports whether an error means that this process may not read the other process's memory,
// or that the kernel has no system call for it.
func Denied(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENOSYS)
}

func has(set []uint64, page int64) bool { return set[page/64]>>(page%64)&1 == 1 }
func add(set []uint64, page int64)      { set[page/64] |= 1 << (page % 64) }
func drop(set []uint64, page int64)     { set[page/64] &^= 1 << (page % 64) }
