// Package regular opens files that must be regular ones, by paths at which anything may lie.
//
// Opening a FIFO waits until somebody opens its other end, and no context ends that wait. So every
// file that banger finds by its name is opened here: the files of a home, and those that a person
// names. Not opened here are files that this process has just made, files of the kernel such as
// those in /proc, and inputs that may be a pipe. A test in package testkit lists the exceptions.
package regular

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
)

// Open opens a regular file for reading. If it is anything else, the error is fault.Damaged.
func Open(path string) (*os.File, error) { return OpenFile(path, os.O_RDONLY, 0) }

// OpenFile is os.OpenFile for a regular file, which it may make. If there is anything else, the
// error is fault.Damaged.
func OpenFile(path string, flag int, perm fs.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag|unix.O_NONBLOCK|unix.O_NOCTTY, perm)
	switch {
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENODEV):
		return nil, irregular(path)
	case err != nil:
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = irregular(path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func irregular(path string) error {
	return fault.New(fault.Damaged, "%s is not a regular file", path).
		WithHint("Find out who made %s, and move it away.", path)
}

// Read returns the content of a regular file. If it has more than limit bytes, the error is
// fault.Damaged.
func Read(path string, limit int64) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, fault.New(fault.Damaged, "reading %s: more than %d bytes", path, limit)
	}
	return data, err
}

// Write is os.WriteFile for a regular file. If there is anything else, the error is fault.Damaged.
func Write(path string, data []byte, perm fs.FileMode) error {
	f, err := OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}
