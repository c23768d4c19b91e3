package transfer

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"banger/internal/fault"
)

// WriteNew makes a file that only its owner can read, which appears when it is complete. An
// existing file is replaced only with force.
func WriteNew(file string, force bool, write func(io.Writer) error) (err error) {
	if _, err := os.Lstat(file); err == nil && !force {
		return taken(file)
	}
	// never replace a device by a file
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() {
		return fault.New(fault.Invalid, "%s is not a regular file", file).WithHint("Give the name of a file.")
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return fileFault(err)
	}
	defer func() { err = errors.Join(err, ignoreGone(os.Remove(f.Name()))) }()
	out := bufio.NewWriter(f)
	if err := errors.Join(write(out), out.Flush(), f.Close()); err != nil {
		return err
	}
	if force {
		return os.Rename(f.Name(), file)
	}
	if err := os.Link(f.Name(), file); errors.Is(err, fs.ErrExist) {
		return taken(file)
	} else if err == nil {
		return nil
	}
	return os.Rename(f.Name(), file) // a file system without hard links
}

func taken(file string) error {
	return fault.New(fault.Exists, "%s exists", file).WithHint("Choose another file, or replace this one with --force.")
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// WriteWhole writes a stream to a file, which gets its name when it is complete. Devices and pipes
// are written to directly.
func WriteWhole(path string, stream io.Reader) (size int64, err error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	switch info, err := os.Stat(path); {
	case err == nil && info.IsDir():
		return 0, fault.New(fault.Invalid, "%s is a directory", path)
	case err == nil && !info.Mode().IsRegular():
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return 0, fileFault(err)
		}
		size, err = io.Copy(f, stream)
		return size, errors.Join(err, f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // for its owner only
	if err != nil {
		return 0, fileFault(err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if size, err = io.Copy(f, stream); err != nil {
		return 0, err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return 0, fmt.Errorf("writing %s: %w", path, err)
	}
	return size, os.Rename(f.Name(), path)
}

// fileFault gives the error of a file that the user named its kind.
func fileFault(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault.New(fault.NotFound, "%w", err)
	case errors.Is(err, fs.ErrPermission):
		return fault.New(fault.Denied, "%w", err)
	}
	return err
}
