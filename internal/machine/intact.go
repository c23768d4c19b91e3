package machine

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/paths"
)

// MeasureDisks returns the lengths of disks by name. It leaves out disks that cannot be looked at.
func MeasureDisks(disks map[string]string) map[string]model.Bytes {
	lengths := map[string]model.Bytes{}
	for name, path := range disks {
		if info, err := os.Stat(path); err == nil {
			lengths[name] = model.Bytes(info.Size())
		}
	}
	return lengths
}

// checkDisks fails if a disk that the subject has had is missing, is shorter than it was, or cannot
// be used. A new disk in its place would look as if the user's files had never been there.
func checkDisks(files paths.VM, s Subject) error {
	if _, err := os.Stat(files.Dir); errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.Damaged, "the VM's directory %s is missing", files.Dir).
			WithHint("Put the directory back with all files in it. If it is lost, delete the VM: `banger vm delete %s`", s.Spec.Name)
	}
	for name, path := range DiskPaths(files) {
		length, had := s.Disks[name]
		if name == SystemDisk && s.DiskImage != s.Spec.ImageID {
			had = false // this start makes another one
		}
		if !had {
			continue
		}
		if err := checkDisk(name, path, length, s.Spec.Name); err != nil {
			return err
		}
	}
	return nil
}

func checkDisk(name, path string, length model.Bytes, vm string) error {
	putBack := func(f *fault.Error) error {
		return f.WithHint("Put the file back as it was, or restore a snapshot with `banger vm restore`. If the disk is lost, delete the VM: `banger vm delete %s`", vm)
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return putBack(fault.New(fault.Damaged, "the %s disk %s is missing", name, path))
	case err != nil:
		return fault.New(fault.Denied, "looking at the %s disk: %w", name, err)
	case !info.Mode().IsRegular():
		return putBack(fault.New(fault.Damaged, "the %s disk %s is not a regular file", name, path))
	case model.Bytes(info.Size()) < length:
		return putBack(fault.New(fault.Damaged, "the %s disk %s is cut off: it has %d bytes and had %d at the last start", name, path, info.Size(), length))
	}
	err = unix.Faccessat(unix.AT_FDCWD, path, unix.R_OK|unix.W_OK, unix.AT_EACCESS)
	if err == nil && info.Mode().Perm()&0o600 != 0o600 { // root may; its VMMs may not
		err = unix.EACCES
	}
	if err != nil {
		owner := info.Sys().(*syscall.Stat_t).Uid // os.Stat returns this type on Linux
		return fault.New(fault.Denied, "the %s disk %s cannot be read and written by user %d: it belongs to user %d and has mode %v: %w",
			name, path, os.Geteuid(), owner, info.Mode(), err).WithHint("As user %d: chmod 600 %s", owner, path)
	}
	return nil
}
