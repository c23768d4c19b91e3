package transfer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"banger/internal/fault"
	"banger/internal/guest/archive"
)

// WriteNew makes a file that only its owner can read, which appears when it is complete. An
// existing file is replaced only with force, also through symbolic links.
func WriteNew(file string, force bool, write func(io.Writer) error) (err error) {
	if _, err := os.Lstat(file); err == nil && !force {
		return taken(file)
	}
	real, special, err := archive.Follow(file)
	switch {
	case err != nil:
		return err
	case special:
		return fault.New(fault.Invalid, "%s is not a regular file", file).WithHint("Give the name of a file.")
	}
	file = real
	f, err := part(file)
	if err != nil {
		return err
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
func WriteWhole(ctx context.Context, path string, stream io.Reader) (size int64, err error) {
	path, special, err := archive.Follow(path)
	switch {
	case err != nil:
		return 0, err
	case special:
		return archive.Feed(ctx, path, stream, 0)
	}
	f, err := part(path)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if size, err = io.Copy(f, stream); err != nil {
		return 0, ofPart(path, err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return 0, ofPart(path, err)
	}
	return size, os.Rename(f.Name(), path)
}

// part makes a file beside path, for its owner only, that is to become path.
func part(path string) (*os.File, error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".banger-*")
	return f, ofPart(path, err)
}

// ofPart gives an error about a part, whose name nobody knows, the name of the whole file.
func ofPart(path string, err error) error {
	if bad := (*fs.PathError)(nil); errors.As(err, &bad) {
		return fileFault(fmt.Errorf("writing %s: %w", path, bad.Err))
	}
	return err
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
