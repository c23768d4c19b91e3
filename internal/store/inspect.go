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
	"banger/internal/regular"
)

// Found is what Inspect has found in a database.
type Found struct {
	VMs        []model.VM // the records that can be read
	Unreadable []string   // ids of the other ones
	Home       string     // the home's id, or ""
	Starts     string     // how often a daemon had started: see home.Held.Count
}

// Files returns the files that a database at path may have: itself, and what SQLite keeps beside
// it.
func Files(path string) []string { return []string{path, path + "-wal", path + "-shm"} }

// InspectTemp begins the name of the directory in which Inspect makes its copy.
const InspectTemp = ".tmp-recover-"

// Inspect reads a database without changing it: it reads a copy in the first of dirs that has room
// for one. Without dirs, that is os.TempDir. Its errors are fault.NotFound, fault.Damaged, or
// fault.Unsupported for a database of a newer banger.
func Inspect(ctx context.Context, path string, dirs ...string) (found Found, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 { // SQLite's empty one
		return found, fault.New(fault.NotFound, "there is no database at %s", path)
	}
	err = OnCopy(ctx, path, func(s *Store) error {
		var err error
		if found.Home, err = s.Meta(ctx, HomeKey); err != nil {
			return err
		}
		if found.Starts, err = s.Meta(ctx, StartsKey); err != nil {
			return err
		}
		return s.each(ctx, func(id, doc string) error {
			if v, err := decode(id, doc); err == nil {
				found.VMs = append(found.VMs, v)
			} else {
				found.Unreadable = append(found.Unreadable, id)
			}
			return nil
		})
	}, dirs...)
	return found, err
}

// OnCopy calls look with a copy of the database at path, which is whole and has the present schema.
// The copy is made in the first of dirs that has room for one; without dirs, in os.TempDir.
func OnCopy(ctx context.Context, path string, look func(*Store) error, dirs ...string) (err error) {
	temp, err := copyTo(dirs, path)
	if err != nil {
		return fmt.Errorf("inspecting %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	s, err := Open(ctx, filepath.Join(temp, copyName))
	if err != nil {
		return fmt.Errorf("inspecting %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.check(ctx); err != nil {
		return fmt.Errorf("inspecting %s: %w", path, err)
	}
	return look(s)
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

// copyName is the name of a copy.
const copyName = "banger.db"

// copyTo copies a database to a new directory in the first of dirs in which that works.
func copyTo(dirs []string, path string) (temp string, err error) {
	if len(dirs) == 0 {
		dirs = []string{os.TempDir()}
	}
	var errs []error
	for _, dir := range dirs {
		temp, err := os.MkdirTemp(dir, InspectTemp+"*")
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for i, file := range Files(path)[:2] { // SQLite makes the third from these
			err = errors.Join(err, copyFile(file, Files(filepath.Join(temp, copyName))[i]))
		}
		if err == nil {
			return temp, nil
		}
		errs = append(errs, err, os.RemoveAll(temp))
	}
	return "", errors.Join(errs...)
}

// copyFile copies a file that may be missing.
func copyFile(from, to string) error {
	src, err := regular.Open(from)
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
