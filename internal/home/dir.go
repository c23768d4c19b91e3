package home

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"banger/internal/fault"
)

// PrivateDir makes the directory for sockets, or checks the existing one. It must be a real
// directory, owned by the caller and closed to everybody else, and nobody may be able to replace
// it.
func PrivateDir(dir string) error {
	err := os.MkdirAll(filepath.Dir(dir), 0o755)
	if err == nil {
		err = os.Mkdir(dir, 0o700)
	}
	if err != nil && !os.IsExist(err) {
		return Unusable(fault.Denied, fmt.Errorf("making the runtime directory: %w", err))
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("looking at the runtime directory: %w", err)
	}
	owner := ownerOf(info)
	switch {
	case !info.IsDir():
		return fault.New(fault.Denied, "the runtime directory %s is not a directory", dir).
			WithHint("Find out who made it, and remove it.")
	case owner != os.Geteuid():
		return fault.New(fault.Denied, "the runtime directory %s belongs to user %d", dir, owner).
			WithHint("Set BANGER_HOME to a directory of your own.")
	case info.Mode().Perm()&0o077 != 0:
		return fault.New(fault.Denied, "the runtime directory %s is open to others (mode %#o)", dir, info.Mode().Perm()).
			WithHint("If all files in it are yours: chmod 700 %s", dir)
	}
	_, err = newChecker().check(directory{"runtime", dir})
	return err
}

// Unusable adds a kind and a hint to an error that says that a directory cannot be made here.
// Other errors stay as they are.
func Unusable(kind fault.Kind, err error) error {
	for _, known := range []error{fs.ErrPermission, fs.ErrNotExist, syscall.ENOTDIR, syscall.EROFS} {
		if errors.Is(err, known) {
			return fault.New(kind, "%w", err).WithHint("Set BANGER_HOME to a directory that you may write to.")
		}
	}
	return err
}
