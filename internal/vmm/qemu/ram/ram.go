// Package ram copies the memory of a guest out of the process that holds it into a file, most of it while the guest runs.
//
// The guest's memory is a private mapping of the process: of nothing, or of a base, the file that another copy has made and that nobody
// changes. The process's own pages are those that it has written; what else the guest sees is zero, or the base's. So a copy is the
// base's data with the own pages over it, and what is zero is a hole.
//
// A copy has two passes. The first runs beside the guest, finds out what is zero, and makes the file system find room; what it reads may be
// half written. The second one, while the guest stands still, only moves bytes: every own page is read again, straight
// into the page cache of the file. (With CONFIG_MEM_SOFT_DIRTY, which Debian's kernels have and many do not, bit 55 of the pagemap and clear_refs
// could spare it those that did not change in between, for a page fault at each first write after the first pass.)
package ram

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
	pageSize = 4096     // of x86
	chunk    = 16 << 20 // bytes that one worker copies between two looks at the context; a multiple of 64 pages
	workers  = 2        // measured: a fifth faster than one, where the cores are free
)

// Region is where a process has a guest's memory.
type Region struct {
	PID  int
	Addr uint64
	Size int64 // a whole number of pages
}

// Copy is one region on its way into a file.
type Copy struct {
	r       Region
	out     *os.File
	mapped  []byte // out
	pagemap *os.File
	taken   []uint64 // a bit for each page that a pass has read from the process
	holes   []uint64 // a bit for each page that certainly is a hole in out
}

// Begin prepares a copy to out, an empty file, and copies the base there. base must be what the region maps; nil stands for nothing.
func Begin(ctx context.Context, r Region, base, out *os.File) (_ *Copy, err error) {
	c := &Copy{r: r, out: out}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("preparing a copy of the guest's memory: %w", err), c.Close())
		}
	}()
	info, err := out.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() != 0 || r.Size <= 0 || r.Size%pageSize != 0 {
		return nil, fault.New(fault.Invalid, "%s holds %d bytes, for a region of %d", out.Name(), info.Size(), r.Size)
	}
	if base != nil {
		if err := clone(ctx, base, out); err != nil {
			return nil, err
		}
	}
	if err := out.Truncate(r.Size); err != nil {
		return nil, err
	}
	if c.mapped, err = unix.Mmap(int(out.Fd()), 0, int(r.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("mapping %s: %w", out.Name(), err)
	}
	if c.pagemap, err = os.Open("/proc/" + strconv.Itoa(r.PID) + "/pagemap"); err != nil {
		return nil, err
	}
	words := (r.Size/pageSize + 63) / 64
	c.taken, c.holes = make([]uint64, words), make([]uint64, words)
	if base == nil {
		for i := range c.holes {
			c.holes[i] = ^uint64(0)
		}
	}
	return c, nil
}

// Close lets go of the file, which stays open.
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

// Last is the pass while the guest stands still. It may not be the only one.
func (c *Copy) Last(ctx context.Context) error { return c.pass(ctx, (*worker).last) }

func (c *Copy) pass(ctx context.Context, do func(*worker, int64) error) error {
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range min(workers, runtime.GOMAXPROCS(0)) {
		group.Go(func() error {
			w := newWorker(c)
			for at := next.Add(chunk) - chunk; at < c.r.Size; at = next.Add(chunk) - chunk {
				if err := context.Cause(ctx); err != nil {
					return err
				}
				if err := do(w, at); err != nil {
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

// Denied tells whether an error says that this process may not read the other one's memory, or that the kernel knows no way to.
func Denied(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENOSYS)
}

func has(set []uint64, page int64) bool { return set[page/64]>>(page%64)&1 == 1 }
func add(set []uint64, page int64)      { set[page/64] |= 1 << (page % 64) }
func drop(set []uint64, page int64)     { set[page/64] &^= 1 << (page % 64) }
