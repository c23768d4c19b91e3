package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"banger/internal/disk"
)

// tempDir is the directory, in images and blobs, for unfinished work.
const tempDir = "tmp"

// staging is a directory in which one thing is made, before one rename gives it its name. The maker
// holds a lock on the directory's name. If the lock is free, the maker died.
type staging struct {
	dir    string
	unlock func()
}

// newStaging makes a staging directory below root.
func (l locks) newStaging(ctx context.Context, root string) (*staging, error) {
	// The global lock keeps a sweep away until the directory is locked.
	unlock, err := l.lock(ctx, global)
	if err != nil {
		return nil, err
	}
	defer unlock()
	dir, err := os.MkdirTemp(filepath.Join(root, tempDir), "")
	if err != nil {
		return nil, fmt.Errorf("making a staging directory: %w", disk.NoSpace(err, root))
	}
	held, err := l.try(stagingLock(dir))
	if held == nil || err != nil {
		return nil, errors.Join(fmt.Errorf("locking staging directory %s", dir), err, os.Remove(dir))
	}
	return &staging{dir, held}, nil
}

func stagingLock(dir string) string { return "bench " + filepath.Base(dir) }

func (b *staging) path(name string) string { return filepath.Join(b.dir, name) }

// close removes the staging directory and its content.
func (b *staging) close() error {
	err := os.RemoveAll(b.dir)
	b.unlock()
	return err
}

// sweepLocked removes the staging directories of dead processes and returns their number. The
// caller holds the global lock.
func (l locks) sweepLocked(root string, log *slog.Logger) (int, error) {
	dirs, err := os.ReadDir(filepath.Join(root, tempDir))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("looking for leftovers: %w", err)
	}
	swept := 0
	var errs []error
	for _, e := range dirs {
		dir := filepath.Join(root, tempDir, e.Name())
		unlock, err := l.try(stagingLock(dir))
		if err != nil {
			return swept, err
		}
		if unlock == nil {
			continue // in use
		}
		err = os.RemoveAll(dir)
		unlock()
		if err != nil {
			errs = append(errs, fmt.Errorf("removing leftover %s: %w", dir, err))
			continue
		}
		swept++
		log.Info("removed what an unfinished image left", "path", dir)
	}
	return swept, errors.Join(errs...)
}
