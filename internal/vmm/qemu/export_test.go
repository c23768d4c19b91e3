package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"

	"banger/internal/vmm"
	"banger/internal/vmm/memory"
)

// SaveByQEMU is a Save by a process that may not read QEMU's.
func SaveByQEMU(ctx context.Context, in vmm.Instance, req vmm.SaveRequest) (vmm.Saved, error) {
	denied := func(context.Context, memory.Region, *os.File, *os.File) (copier, error) { return nil, unix.EPERM }
	s := &saving{in: in.(*instance), req: req, read: denied}
	return s.run(ctx)
}

// SaveUnread is a Save that calls f when it would read the memory, and then cannot read it.
func SaveUnread(ctx context.Context, in vmm.Instance, req vmm.SaveRequest, f func() error) (vmm.Saved, error) {
	unread := func(context.Context, memory.Region, *os.File, *os.File) (copier, error) {
		return nil, errors.Join(io.ErrUnexpectedEOF, f())
	}
	s := &saving{in: in.(*instance), req: req, read: unread}
	return s.run(ctx)
}

var instructionPointer = regexp.MustCompile(`\b[ER]IP=([0-9a-f]{1,16})\b`)

// At returns where in its program the first virtual CPU of a machine is.
func At(ctx context.Context, in vmm.Instance) (uint64, error) {
	var text string
	if err := in.(*instance).ask(ctx, "human-monitor-command", map[string]any{"command-line": "info registers"}, &text); err != nil {
		return 0, err
	}
	match := instructionPointer.FindStringSubmatch(text)
	if match == nil {
		return 0, fmt.Errorf("no registers in %.200q", text)
	}
	return strconv.ParseUint(match[1], 16, 64)
}

// HostAddress returns where the process of a machine has an address of its guest.
func HostAddress(ctx context.Context, in vmm.Instance, guest int64) (uint64, error) {
	return hostAddress(ctx, in.(*instance), guest)
}

// OpenBase opens what a process has in the place of its memory file, as a Save does. from is the
// file of the start; nil if an older version started the machine, which maps mapped.
func OpenBase(pid int, from *os.File, mapped memory.Backing) (*os.File, error) {
	if from == nil {
		return openBase(pid, nil, mapped)
	}
	id, err := identify(from)
	if err != nil {
		return nil, err
	}
	return openBase(pid, id, mapped)
}
