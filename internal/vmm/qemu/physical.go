package qemu

import (
	"context"
	"fmt"
	"os"

	"banger/internal/fault"
	"banger/internal/vmm/memory"
)

// physical makes QEMU write the guest's memory, while the machine is halted, if this process may
// not read QEMU's: with kernel.yama.ptrace_scope=1 only ancestors may, and a restarted daemon is
// none. The BIOS is there instead of the memory that it hides.
type physical struct {
	in   *instance
	size int64
	out  *os.File
}

// physical returns that way of copying a region. why is the reason why the better way failed.
func (in *instance) physical(r memory.Region, out *os.File, why error) (copier, error) {
	if r.Size > lowMemory { // pmemsave writes one region, and empties the file before
		return nil, fault.New(fault.Denied, "%w", why).
			WithHint("allow it with `sysctl kernel.yama.ptrace_scope=0`, or stop the VM and start it again")
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

// Close makes holes of zero pages.
func (p *physical) Close() error { return memory.Dig(p.out) }
