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

// The files of a snapshot's folder.
const (
	metaFile   = "meta.json"
	memoryFile = "memory"
	deviceFile = "device"
	diskSuffix = ".ext4"
)

func diskFile(name string) string { return name + diskSuffix }

// A folder is an open folder whose files are reached without a way through names that somebody else could change meanwhile.
type folder struct{ *os.File }

// openFolder opens a folder that is the caller's alone.
func openFolder(path string) (folder, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return folder{}, fault.New(fault.NotFound, "there is no snapshot at %s", path)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return folder{}, fault.New(fault.Invalid, "%s is not a folder", path)
	case err != nil:
		return folder{}, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	d := folder{os.NewFile(uintptr(fd), path)}
	info, err := d.Stat()
	if err == nil {
		err = checkOwner(info, path)
	}
	if err != nil {
		d.Close()
		return folder{}, err
	}
	return d, nil
}

// open opens a regular file of the folder that is the caller's alone. It neither follows a link nor waits for the other end of a pipe.
func (d folder) open(name string, flags int) (*os.File, fs.FileInfo, error) {
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

// openAny opens a regular file of the folder, whoever it belongs to.
func (d folder) openAny(name string, flags int) (*os.File, fs.FileInfo, error) {
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

// checkOwner refuses what others could have written: what it says would be theirs.
func checkOwner(info fs.FileInfo, path string) error {
	st := info.Sys().(*syscall.Stat_t) // os.File.Stat's on Linux
	if int(st.Uid) != os.Geteuid() {
		return fault.New(fault.Invalid, "%s belongs to user %d, not to %d", path, st.Uid, os.Geteuid())
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fault.New(fault.Invalid, "%s is open to other users (mode %v)", path, info.Mode()).WithHint("If you trust what it holds: chmod go= %s", path)
	}
	return nil
}

// Remove removes the snapshot at dir, whatever is there: first from sight, all at once, then its files. What a crash leaves is for
// CleanTemp. That there is none is success.
func Remove(dir string) error {
	temp := tempName(dir)
	if err := os.Rename(dir, temp); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("removing snapshot: %w", err)
	}
	// The name must be gone for good before the first file is: else a crash of the host could bring half a snapshot back.
	err := errors.Join(disk.SyncDir(filepath.Dir(dir)), os.RemoveAll(temp))
	if err != nil {
		return fmt.Errorf("removing snapshot %s: %w", dir, err)
	}
	return nil
}

// CleanTemp removes the folders that Create, Import and Remove left in parent when they were cut off. It leaves alone what is still being
// worked on, in this process or another.
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

// cleanTemp removes one folder unless a Draft holds its lock.
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

// tempName is a fresh name beside path.
func tempName(path string) string {
	return filepath.Join(filepath.Dir(path), disk.TempPrefix+filepath.Base(path)+"-"+model.NewID())
}
