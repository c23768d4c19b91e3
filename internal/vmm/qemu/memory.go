package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/pattern"
	"banger/internal/vmm"
	"banger/internal/vmm/memory"
)

// copier is a copy of the guest's memory that was begun while the machine ran.
type copier interface {
	Last(ctx context.Context) error // while it is halted
	Close() error                   // after it continues
}

// readFunc begins to copy a region into out, whose base is the file that the region maps, or nil.
type readFunc func(ctx context.Context, region memory.Region, base, out *os.File) (copier, error)

// readMemory begins to read the memory from a process.
func readMemory(pid int) readFunc {
	return func(ctx context.Context, region memory.Region, base, out *os.File) (copier, error) {
		c, err := memory.Begin(ctx, pid, []memory.Region{region}, base, out)
		if err != nil {
			return nil, err
		}
		if err := c.First(ctx); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		return c, nil
	}
}

// lowMemory is what a microvm has below the hole under 4 GiB (microvm_memory_init). The rest of
// its memory begins at highMemory. In QEMU's process both are one block.
const (
	lowMemory  = 3 << 30
	highMemory = 4 << 30
)

// layout is where the memory of a machine of that size lies in a memory file.
func layout(size model.Bytes) *vmm.MemoryLayout {
	low := vmm.MemoryRegion{Size: min(size, lowMemory)}
	if size <= lowMemory {
		return vmm.NewMemoryLayout(low)
	}
	return vmm.NewMemoryLayout(low, vmm.MemoryRegion{Address: highMemory, Size: size - lowMemory, Offset: lowMemory})
}

// region finds the guest's memory in QEMU's process, and the file that it maps privately. A
// machine that was not restored maps no file: then the file is nil.
func (s *saving) region(ctx context.Context) (memory.Region, *os.File, error) {
	var size struct {
		Base int64 `json:"base-memory"`
	}
	if err := s.in.ask(ctx, "query-memory-size-summary", nil, &size); err != nil {
		return memory.Region{}, nil, err
	}
	// A VMM that a guest has taken over could report any size, and so fill the disk.
	if want := s.in.s.Memory; size.Base > int64(model.MaxMemory) || want != 0 && size.Base != int64(want) {
		return memory.Region{}, nil, fault.New(fault.Invalid, "the VMM reports a memory of %d bytes; the machine has %d", size.Base, want)
	}
	addr, err := hostAddress(ctx, s.in, 0)
	if err != nil {
		return memory.Region{}, nil, err
	}
	region := memory.Region{Addr: addr, Size: size.Base}
	backing, err := memory.Look(s.in.PID(), []memory.Region{region})
	if fault.KindOf(err) == fault.Unsupported {
		err = fault.New(fault.Unsupported, "%w", err).WithHint("an older version started the machine: stop the VM and start it again")
	}
	if err != nil || backing == memory.Nothing {
		return region, nil, err
	}
	base, err := openBase(s.in.PID(), s.in.s.Base, backing)
	return region, base, err
}

var hostAddressLine = pattern.Lazy(`^Host virtual address for 0x[0-9a-f]+ .* is 0x([0-9a-f]{1,16})\s*$`)

// hostAddress returns where QEMU's process has an address of the guest.
func hostAddress(ctx context.Context, in *instance, guest int64) (uint64, error) {
	var text string
	line := map[string]any{"command-line": fmt.Sprintf("gpa2hva %#x", guest)}
	if err := in.ask(ctx, "human-monitor-command", line, &text); err != nil {
		return 0, err
	}
	match := hostAddressLine().FindStringSubmatch(text)
	if match == nil {
		return 0, fmt.Errorf("asking QEMU where the guest's memory is: %.80q is not an address", text)
	}
	addr, err := strconv.ParseUint(match[1], 16, 64)
	if err != nil {
		return 0, fmt.Errorf("asking QEMU where the guest's memory is: %w", err)
	}
	return addr, nil
}

// physical makes QEMU write the guest's memory, while the machine is halted, if this process may
// not read QEMU's: with kernel.yama.ptrace_scope=1 only ancestors may, and a restarted daemon is
// none. The BIOS is there instead of the memory that it hides.
type physical struct {
	in   *instance
	size int64
	out  *os.File
	from *os.File // the end of a pipe; QEMU has the other end
	lent *loan
}

// newPhysical returns that way of copying a region. why is the reason why the better way failed.
func newPhysical(ctx context.Context, in *instance, r memory.Region, out *os.File, why error) (copier, error) {
	if r.Size > lowMemory { // pmemsave writes one region, and empties the file before
		return nil, fault.New(fault.Denied, "%w", why).
			WithHint("allow it with `sysctl kernel.yama.ptrace_scope=0`, or stop the VM and start it again")
	}
	if err := out.Truncate(0); err != nil {
		return nil, fmt.Errorf("emptying the memory's file: %w", err)
	}
	from, to, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe for the guest's memory: %w", err)
	}
	defer to.Close()
	lent, err := lend(ctx, in, to)
	if err != nil {
		return nil, errors.Join(err, from.Close())
	}
	return &physical{in: in, size: r.Size, out: out, from: from, lent: lent}, nil
}

// Last copies what QEMU writes into the pipe.
func (p *physical) Last(ctx context.Context) error {
	defer p.from.Close()
	defer context.AfterFunc(ctx, func() { _ = p.from.Close() })()
	var copied error
	var group sync.WaitGroup
	group.Go(func() {
		if _, copied = io.CopyN(io.NewOffsetWriter(p.out, 0), p.from, p.size); copied != nil {
			_ = p.from.Close() // QEMU must not wait for a reader
		}
	})
	const dump = "pmemsave"
	err := asking(ctx, p.in, dumpTimeout, dump, func(ctx context.Context) error {
		return p.in.monitor.Execute(ctx, dump, map[string]any{"val": 0, "size": p.size, "filename": p.lent.path}, nil)
	})
	if err != nil {
		_ = p.from.Close()
	}
	group.Wait()
	if err == nil && copied != nil {
		err = fmt.Errorf("copying the guest's memory: %w", copied)
	}
	return err
}

// Close makes holes of zero pages.
func (p *physical) Close() error {
	_ = p.from.Close() // again, after Last
	return errors.Join(p.lent.back(context.Background()), memory.Dig(p.out))
}
