package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"banger/internal/disk"
)

// tempDir is the folder, in images and in blobs, for what is being made.
const tempDir = "tmp"

// A bench is a folder in which one thing is made before it gets its name by one rename. Whoever makes it holds a lock on the folder's
// name; a bench whose lock is free was left by a process that died.
type bench struct {
	dir    string
	unlock func()
}

// newBench makes a bench below root.
func (s *Store) newBench(ctx context.Context, root string) (*bench, error) {
	unlock, err := s.locks.lock(ctx, global) // so that a sweep does not see the folder before it is locked
	if err != nil {
		return nil, err
	}
	defer unlock()
	dir, err := os.MkdirTemp(filepath.Join(root, tempDir), "")
	if err != nil {
		return nil, fmt.Errorf("making a work folder: %w", disk.NoSpace(err, root))
	}
	held, err := s.locks.try(benchLock(dir))
	if held == nil || err != nil {
		return nil, errors.Join(fmt.Errorf("locking work folder %s", dir), err, os.Remove(dir))
	}
	return &bench{dir, held}, nil
}

func benchLock(dir string) string { return "bench " + filepath.Base(dir) }

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// close removes the bench and what is still on it.
func (b *bench) close() error {
	err := os.RemoveAll(b.dir)
	b.unlock()
	return err
}

// sweep removes the benches of dead processes and returns how many there were. The caller holds the global lock.
func (s *Store) sweepLocked(root string) (int, error) {
	benches, err := os.ReadDir(filepath.Join(root, tempDir))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("looking for leftovers: %w", err)
	}
	swept := 0
	var errs []error
	for _, e := range benches {
		dir := filepath.Join(root, tempDir, e.Name())
		unlock, err := s.locks.try(benchLock(dir))
		if err != nil {
			return swept, err
		}
		if unlock == nil {
			continue // somebody is at work there
		}
		err = os.RemoveAll(dir)
		unlock()
		if err != nil {
			errs = append(errs, fmt.Errorf("removing leftover %s: %w", dir, err))
			continue
		}
		swept++
		s.log.Info("removed what an unfinished image has left", "path", dir)
	}
	return swept, errors.Join(errs...)
}
