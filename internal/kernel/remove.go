package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
)

// Delete removes a kernel. If ref is one of several names, it removes only that name. inUse returns
// the users of the kernel with an id; a kernel in use fails with fault.WrongState.
func (s *Store) Delete(ctx context.Context, ref string, inUse func(id string) []string) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	k, err := s.Get(ref)
	if err != nil {
		return err
	}
	if len(k.Names) > 1 && slices.Contains(k.Names, ref) {
		return s.dropName(ref)
	}
	if users := inUse(k.ID); len(users) > 0 {
		return fault.New(fault.WrongState, "kernel %s is in use by %s", ref, strings.Join(users, ", ")).
			WithHint("Delete what uses it first.")
	}
	return s.remove(k)
}

// Prune removes leftovers, and kernels without names and users. It returns the removed kernels.
func (s *Store) Prune(ctx context.Context, inUse func(id string) []string) ([]model.Kernel, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	kernels, err := s.List()
	if err != nil {
		return nil, err
	}
	var removed []model.Kernel
	var errs []error
	for _, k := range kernels {
		if len(k.Names) > 0 || len(inUse(k.ID)) > 0 {
			continue
		}
		if err := s.remove(k); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, k)
	}
	return removed, errors.Join(append(errs, s.sweep())...)
}

// remove removes the names first. After a crash there may be a kernel without names, which Prune
// finds, but never a name without a kernel.
func (s *Store) remove(k model.Kernel) error {
	for _, name := range k.Names {
		if err := s.dropName(name); err != nil {
			return err
		}
	}
	doomed := filepath.Join(s.dir, tmpPrefix+"deleted-"+k.ID)
	if err := os.Rename(filepath.Join(s.dir, k.ID), doomed); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing kernel %s: %w", k.ID, err)
	}
	if err := os.RemoveAll(doomed); err != nil {
		return fmt.Errorf("removing kernel %s: %w", k.ID, err)
	}
	return disk.SyncDir(s.dir)
}

func (s *Store) dropName(name string) error {
	dir := filepath.Join(s.dir, namesDir)
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the kernel's name %s: %w", name, err)
	}
	return disk.SyncDir(dir)
}

// sweep removes temporary files and directories that nobody has locked.
func (s *Store) sweep() error {
	var errs []error
	for _, dir := range []string{s.dir, filepath.Join(s.dir, namesDir)} {
		entries, err := os.ReadDir(dir)
		errs = append(errs, err)
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), tmpPrefix) {
				continue
			}
			path := filepath.Join(dir, e.Name())
			f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // most are directories
			if err != nil {
				continue
			}
			if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
				errs = append(errs, os.RemoveAll(path))
			}
			f.Close()
		}
	}
	return errors.Join(errs...)
}
