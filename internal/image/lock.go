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

// lockPoll is the time between two tries for a lock of another process. A wait in the kernel could
// not end with a context.
const lockPoll = 50 * time.Millisecond

// locks are named locks between processes and goroutines. Each is a byte of one file, locked as an
// open file description (fcntl(2), F_OFD_SETLK). So a dead holder's lock is free, and no files are
// left. Two names share a byte with a chance of 2^-62.
type locks struct{ path string }

// global guards the names in the cache. It is held while something appears, vanishes or is renamed,
// and is the last lock to be taken.
const global = ""

// lock waits for a lock until ctx ends, and returns the function that releases it.
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
			return nil, fmt.Errorf("waiting for another process that works on the same image: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// try takes a lock if it is free, and otherwise returns nil.
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

// offset returns a name's byte: 0 for the global lock, and nearly always another one for other
// names.
func offset(name string) int64 {
	if name == global {
		return 0
	}
	h := fnv.New64a()
	h.Write([]byte(name))
	return int64(h.Sum64()>>2) + 1
}

// lockTimeout bounds the wait for the global lock without a context. It is held only for renames.
const lockTimeout = 30 * time.Second

// lockGlobal takes the global lock for a caller without a context.
func (l locks) lockGlobal() (func(), error) {
	ctx, cancel := context.WithTimeout(context.Background(), lockTimeout)
	defer cancel()
	return l.lock(ctx, global)
}
