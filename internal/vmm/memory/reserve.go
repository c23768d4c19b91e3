package memory

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Reserve takes the space of a memory file's holes on a tmpfs: the first access to a hole takes a
// page, and on a full tmpfs it ends the VMM by SIGBUS. The tmpfs of a memfd has no size, so it is
// never full. Other file systems read holes without space; what a guest writes is not the file's.
func Reserve(ctx context.Context, f *os.File) error {
	const step = 64 << 20 // a signal undoes one call
	var kind unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Fstatfs(int(f.Fd()), &kind), unix.Fstat(int(f.Fd()), &st)); err != nil {
		return fmt.Errorf("looking at %s: %w", f.Name(), err)
	}
	if kind.Type != unix.TMPFS_MAGIC || kind.Blocks == 0 || st.Blocks*512 >= st.Size {
		return nil
	}
	for at := int64(0); at < st.Size; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		err := unix.Fallocate(int(f.Fd()), 0, at, min(step, st.Size-at))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("reserving the space of the guest's memory in %s: %w", f.Name(), err)
		default:
			at += step
		}
	}
	return nil
}
