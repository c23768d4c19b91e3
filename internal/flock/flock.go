// Package flock locks files by flock(2): the kernel lets go of a lock when the last descriptor of the open file is closed, however its holder
// ends.
package flock

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Lock takes the exclusive lock on an open file, and waits for it until ctx ends: then it returns the context's cause. The caller closes the file in
// either case. flock(2) itself cannot be called off, so what waits then goes on in the background, on a descriptor of its own, until the present
// holder lets go; it holds the lock for no longer than the caller's file is open.
func Lock(ctx context.Context, f *os.File) error {
	if free, err := TryLock(f); free || err != nil {
		return err
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("waiting for the lock on %s: %w", f.Name(), err)
	}
	got := make(chan error, 1)
	go func() {
		err := unix.Flock(fd, unix.LOCK_EX)
		for errors.Is(err, unix.EINTR) {
			err = unix.Flock(fd, unix.LOCK_EX)
		}
		unix.Close(fd)
		got <- err
	}()
	select {
	case err := <-got:
		if err != nil {
			return fmt.Errorf("locking %s: %w", f.Name(), err)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// TryLock takes the exclusive lock on an open file if it is free, and tells whether it was.
func TryLock(f *os.File) (free bool, err error) {
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return true, nil
}
