package image

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockPoll is how often a lock that another process holds is tried again: a lock that a context can give up has no way to be waited for.
const lockPoll = 50 * time.Millisecond

// locks are named locks between processes, and between the goroutines of one: each is a byte of one file that is locked as an open
// file description (fcntl(2), F_OFD_SETLK), so the kernel lets go of it when its holder dies, and no lock leaves a file behind.
// Two names are one lock by a chance of 2^-62. The global lock is the last to be taken.
type locks struct{ path string }

// global guards the names in the cache: it is held while something appears, vanishes or is renamed, never while something is made.
const global = ""

// lock takes a lock, waiting for it as long as ctx allows, and returns what lets go of it.
func (l locks) lock(ctx context.Context, name string) (unlock func(), err error) {
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		unlock, err := l.try(name)
		if unlock != nil || err != nil {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for another process that is at work on the same image: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// try takes a lock if it is free; else it returns nil.
func (l locks) try(name string) (unlock func(), err error) {
	f, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the lock file: %w", err)
	}
	at := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: offset(name), Len: 1}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &at)
	switch {
	case err == nil:
		return func() { f.Close() }, nil
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
		f.Close()
		return nil, nil
	}
	f.Close()
	return nil, fmt.Errorf("locking %s: %w", l.path, err)
}

// offset is the byte that stands for a name: 0 for the global lock, another one for each other name but for rare collisions.
func offset(name string) int64 {
	if name == global {
		return 0
	}
	h := fnv.New64a()
	h.Write([]byte(name))
	return int64(h.Sum64()>>2) + 1
}
