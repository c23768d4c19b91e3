package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
)

// directory is an open directory. Its files are opened relative to it, so nobody can exchange a
// directory on the path meanwhile.
type directory struct{ *os.File }

// openDirectory opens a directory that only the caller can use.
func openDirectory(path string) (directory, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return directory{}, fault.New(fault.NotFound, "there is no snapshot at %s", path)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return directory{}, fault.New(fault.Invalid, "%s is not a directory", path)
	case err != nil:
		return directory{}, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	d := directory{os.NewFile(uintptr(fd), path)}
	info, err := d.Stat()
	if err == nil {
		err = checkOwner(info, path)
	}
	if err != nil {
		d.Close()
		return directory{}, err
	}
	return d, nil
}

// open opens a regular file that only the caller can use. It follows no link and does not wait for
// the other end of a pipe.
func (d directory) open(name string, flags int) (*os.File, fs.FileInfo, error) {
	f, info, err := d.openAny(name, flags)
	if err != nil {
		return nil, nil, err
	}
	if err := checkOwner(info, f.Name()); err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// openAny opens a regular file of any owner.
func (d directory) openAny(name string, flags int) (*os.File, fs.FileInfo, error) {
	path := filepath.Join(d.Name(), name)
	fd, err := unix.Openat(int(d.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0o600)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, nil, damaged("%s is missing", path)
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENODEV):
		return nil, nil, damaged("%s is not a regular file", path)
	case err != nil:
		return nil, nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = damaged("%s is not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// checkOwner rejects a file that other users can read or write.
func checkOwner(info fs.FileInfo, path string) error {
	st := info.Sys().(*syscall.Stat_t) // os.File.Stat returns this type on Linux
	if int(st.Uid) != os.Geteuid() {
		return fault.New(fault.Invalid, "%s belongs to user %d, not to %d", path, st.Uid, os.Geteuid())
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fault.New(fault.Invalid, "%s is open to other users (mode %v)",
			path, info.Mode()).WithHint("If you trust what it holds: chmod go= %s", path)
	}
	return nil
}

// replaceMeta replaces the description by a rename. The directory may be a copy whose files are
// hard links, so nothing is written in place.
func (d directory) replaceMeta(data []byte) error {
	name := disk.TempPrefix + metaFile + "-" + model.NewID()
	f, _, err := d.open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = unix.Renameat(int(d.Fd()), name, int(d.Fd()), metaFile)
	}
	if err != nil {
		return errors.Join(err, os.Remove(filepath.Join(d.Name(), name)))
	}
	return d.Sync()
}

// Remove removes the snapshot at dir, even a damaged one. It renames the directory and then removes
// the files. CleanTemp removes what a crash leaves. A missing snapshot is no error.
func Remove(dir string) error {
	temp := tempName(dir)
	if err := os.Rename(dir, temp); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("removing snapshot: %w", err)
	}
	// Sync first. Otherwise a crash of the host could restore the name of a snapshot without all
	// its files.
	err := errors.Join(disk.SyncDir(filepath.Dir(dir)), os.RemoveAll(temp))
	if err != nil {
		return fmt.Errorf("removing snapshot %s: %w", dir, err)
	}
	return nil
}

// CleanTemp removes the directories in parent that an interrupted Create, Import or Remove left. It
// skips directories that are in use, in this process or another.
func CleanTemp(parent string) error {
	entries, err := os.ReadDir(parent)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for unfinished snapshots: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), disk.TempPrefix) {
			errs = append(errs, cleanTemp(filepath.Join(parent, e.Name())))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing unfinished snapshots: %w", err)
	}
	return nil
}

// cleanTemp removes one directory unless a Draft holds its lock.
func cleanTemp(path string) error {
	d, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	} else if err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// tempName returns a fresh name beside path.
func tempName(path string) string {
	return filepath.Join(filepath.Dir(path), disk.TempPrefix+filepath.Base(path)+"-"+model.NewID())
}
