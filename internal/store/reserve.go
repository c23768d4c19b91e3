package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"banger/internal/regular"
)

// The reserve is a file beside the database that takes up space for nothing. On a full disk, it is
// released bit by bit, so that records can still be stored: then VMs can be stopped and deleted.
const (
	reserveSize = 2 << 20
	reserveStep = 32 << 10 // other programs take what is released at once
	// reserveRoom is the free space from which on the reserve is made again.
	reserveRoom = 16 << 20
)

type reserve struct {
	path string // "": there is none

	mu    sync.Mutex
	whole bool
}

// release gives a step of the reserve to the file system. It reports whether there was one left.
func (r *reserve) release() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.path == "" {
		return false
	}
	info, err := os.Stat(r.path)
	if err != nil || info.Size() == 0 {
		return false
	}
	r.whole = false
	return os.Truncate(r.path, max(0, info.Size()-reserveStep)) == nil
}

// replenish makes the reserve whole if there is room for it.
func (r *reserve) replenish() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.path == "" || r.whole {
		return nil
	}
	f, err := regular.OpenFile(r.path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("making the reserve: %w", err)
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil || int64(st.Bavail)*st.Bsize < reserveRoom {
		return err
	}
	if err := allocate(f); err != nil {
		return fmt.Errorf("making the reserve: %w", err)
	}
	r.whole = true
	return nil
}

// allocate gives a file reserveSize bytes of space. A file system without fallocate(2) gets bytes
// that it cannot compress.
func allocate(f *os.File) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, reserveSize)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	if _, err := io.Copy(f, io.LimitReader(rand.Reader, reserveSize)); err != nil {
		return err
	}
	return f.Sync()
}
