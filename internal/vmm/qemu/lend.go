package qemu

import (
	"context"
	"fmt"
	"os"
)

// loan is a file without a name, such as a pipe, that QEMU has open. By this way QEMU writes what a
// command would write to a file: a confined QEMU opens no other path.
type loan struct {
	in   *instance
	set  int64
	path string // by which QEMU opens the file
}

// lend gives QEMU a file. If the connection to the monitor ends, QEMU closes it.
func lend(ctx context.Context, in *instance, f *os.File) (*loan, error) {
	var lent struct {
		Set int64 `json:"fdset-id"`
		FD  int   `json:"fd"`
	}
	give := func(ctx context.Context) error { return in.monitor.Give(ctx, "add-fd", f, &lent) }
	if err := prompt(ctx, in, "add-fd", give); err != nil {
		return nil, fmt.Errorf("giving QEMU an open file: %w", err)
	}
	return &loan{in: in, set: lent.Set, path: inherited(lent.FD)}, nil
}

// back makes QEMU close the file. QEMU does so only while the machine runs (monitor_fdset_cleanup).
func (l *loan) back(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), contTimeout)
	defer cancel()
	err := l.in.ask(ctx, "remove-fd", map[string]any{"fdset-id": l.set}, nil)
	select {
	case <-l.in.proc.Done():
		return nil
	default:
		return err
	}
}
