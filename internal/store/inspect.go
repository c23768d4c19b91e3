package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"banger/internal/fault"
	"banger/internal/model"
)

// Found is what Inspect has found in a database.
type Found struct {
	VMs        []model.VM // the records that can be read
	Unreadable []string   // ids of the other ones
	Home       string     // the home's id, or ""
}

// Files returns the files that a database at path may have: itself, and what SQLite keeps beside
// it.
func Files(path string) []string { return []string{path, path + "-wal", path + "-shm"} }

// Inspect reads a database without changing it: it reads a copy in a temporary directory. Without
// a database, the error is fault.NotFound. If it is damaged, the error is fault.Damaged, and if it
// is newer than this banger, fault.Unsupported.
func Inspect(ctx context.Context, path string) (found Found, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 { // SQLite's empty one
		return found, fault.New(fault.NotFound, "there is no database at %s", path)
	}
	temp, err := os.MkdirTemp("", "banger-recover-*")
	if err != nil {
		return found, fmt.Errorf("inspecting %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	copied := filepath.Join(temp, "banger.db")
	for i, file := range Files(path)[:2] { // SQLite makes the third from these
		if err := copyFile(file, Files(copied)[i]); err != nil {
			return found, fmt.Errorf("inspecting %s: %w", path, err)
		}
	}
	s, err := Open(ctx, copied)
	if err != nil {
		return found, fmt.Errorf("inspecting %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.check(ctx); err != nil {
		return found, fmt.Errorf("inspecting %s: %w", path, err)
	}
	if found.Home, err = s.Meta(ctx, HomeKey); err != nil {
		return found, err
	}
	err = s.each(ctx, func(id, doc string) error {
		if v, err := decode(id, doc); err == nil {
			found.VMs = append(found.VMs, v)
		} else {
			found.Unreadable = append(found.Unreadable, id)
		}
		return nil
	})
	return found, err
}

// check has SQLite check the whole file.
func (s *Store) check(ctx context.Context) error {
	var result string
	if err := s.db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&result); err != nil {
		return damaged(err)
	}
	if result != "ok" {
		return isDamaged("the database is damaged: %.200s", result)
	}
	return nil
}

// copyFile copies a file that may be missing.
func copyFile(from, to string) error {
	src, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}
