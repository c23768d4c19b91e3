package vmdir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/paths"
)

// Lose moves the directory of a VM without a record to the lost directories and returns its place
// there. One rename moves it, so that no crash leaves half a directory.
func Lose(layout paths.Layout, id string) (string, error) {
	if err := os.MkdirAll(layout.Lost(), 0o700); err != nil {
		return "", fmt.Errorf("moving the directory of VM %s away: %w", id, err)
	}
	to := filepath.Join(layout.Lost(), id)
	for n := 2; ; n++ { // rename(2) would replace an empty directory only
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			break
		}
		to = filepath.Join(layout.Lost(), id+"-"+strconv.Itoa(n))
	}
	if err := os.Rename(layout.VM(id).Dir, to); err != nil {
		return "", fmt.Errorf("moving the directory of VM %s away: %w", id, err)
	}
	return to, errors.Join(disk.SyncDir(layout.Lost()), disk.SyncDir(layout.VMs()))
}

// Remove removes a VM's directory. If it is a symbolic link to a directory of the same name, which
// somebody has moved to another disk, that directory goes, too. Any other target stays: it may hold
// more than the VM. A link to nothing is an error: the disk may not be mounted.
func Remove(files paths.VM) error {
	target, err := filepath.EvalSymlinks(files.Dir)
	if link, _ := os.Readlink(files.Dir); link != "" && errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.WrongState, "removing the VM's directory: the link %s leads to %s, which is missing", files.Dir, link).
			WithHint("Mount the disk that has the directory, and delete the VM again. If the disk is lost, remove the link first: rm %s", files.Dir)
	}
	if err == nil && filepath.Base(target) == filepath.Base(files.Dir) {
		err = os.RemoveAll(target)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		err = nil
	}
	if err := errors.Join(err, os.RemoveAll(files.Dir)); err != nil && !errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("removing the VM's directory: %w", err)
	}
	return nil
}

// IsMissing reports whether a VM has no directory: a link to a disk that is not mounted is none.
func IsMissing(files paths.VM) bool {
	_, err := os.Stat(files.Dir)
	return errors.Is(err, fs.ErrNotExist)
}

// LostDir is a directory that Lose has moved.
type LostDir struct {
	ID  string // of its VM
	Dir string
}

// Files names the files in it.
func (l LostDir) Files() paths.VM { return paths.VM{Dir: l.Dir} }

// Lost lists the lost directories.
func Lost(layout paths.Layout) ([]LostDir, error) {
	names, err := list(layout.Lost())
	if err != nil {
		return nil, fmt.Errorf("listing lost directories: %w", err)
	}
	var lost []LostDir
	for _, name := range names {
		const digits = 16
		if len(name) >= digits && model.IsID(name[:digits]) && (len(name) == digits || name[digits] == '-') {
			lost = append(lost, LostDir{ID: name[:digits], Dir: filepath.Join(layout.Lost(), name)})
		}
	}
	return lost, nil
}

// IDs lists the VMs that have a directory.
func IDs(layout paths.Layout) ([]string, error) {
	names, err := list(layout.VMs())
	if err != nil {
		return nil, fmt.Errorf("listing the directories of VMs: %w", err)
	}
	return slices.DeleteFunc(names, func(name string) bool { return !model.IsID(name) }), nil
}

// list returns the names of the directories in dir, and of symbolic links, which may lead to one;
// none if dir does not exist.
func list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() || e.Type() == fs.ModeSymlink {
			names = append(names, e.Name())
		}
	}
	return names, err
}
