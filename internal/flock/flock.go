// Package flock locks files with flock(2). The kernel releases a lock when the last descriptor of
// the open file is closed, however its holder ends.
//
// flock(2) cannot be cancelled. When a context ends a wait, the wait continues in the background on
// a descriptor of its own, until the present holder releases the lock. It then holds the lock only
// while the caller's file is open, so the caller closes the file after an error too.
package flock

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Lock takes the exclusive lock on an open file. It waits until ctx ends, and then returns the
// context's cause. The caller closes the file in either case.
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

// TryLock takes the exclusive lock on an open file if it is free, and reports whether it was.
func TryLock(f *os.File) (free bool, err error) { return try(f, unix.LOCK_EX) }

// TryShared is TryLock for a lock that others may share. A look at who holds the exclusive lock
// uses it, so that two looks do not take each other for the holder.
func TryShared(f *os.File) (free bool, err error) { return try(f, unix.LOCK_SH) }

func try(f *os.File, how int) (free bool, err error) {
	err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return true, nil
}
