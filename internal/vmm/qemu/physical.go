package qemu

import (
	"context"
	"fmt"
	"os"

	"banger/internal/fault"
	"banger/internal/vmm/memory"
)

// lowMemory is what a microvm machine has below its hole under 4 GiB (microvm_memory_init).
const lowMemory = 3 << 30

// physical has QEMU write the guest's memory, for when its process may not be read: where kernel.yama.ptrace_scope is 1 only
// ancestors may, and a daemon that was started again is none. It takes its time, in which the machine stands still. What is written is what
// the guest sees: its BIOS is there instead of the memory that it hides.
type physical struct {
	in   *instance
	size int64
	out  *os.File
}

// physical returns that way to copy a region. why is what is in the way of the better one.
func (in *instance) physical(r memory.Region, out *os.File, why error) (copier, error) {
	if r.Size > lowMemory { // QEMU would write it in two parts, and empties the file before each
		return nil, fault.New(fault.Denied, "%w", why).
			WithHint("allow it by `sysctl kernel.yama.ptrace_scope=0`, or stop the VM and start it again")
	}
	if err := out.Truncate(0); err != nil {
		return nil, fmt.Errorf("emptying the memory's file: %w", err)
	}
	return &physical{in: in, size: r.Size, out: out}, nil
}

func (p *physical) Last(ctx context.Context) error {
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), p.out.Fd())
	return p.in.ask(ctx, "pmemsave", map[string]any{"val": 0, "size": p.size, "filename": path}, nil)
}

// Close makes holes of what is zero.
func (p *physical) Close() error { return memory.Dig(p.out) }
