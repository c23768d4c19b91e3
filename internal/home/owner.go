package home

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"banger/internal/fault"
	"banger/internal/paths"
)

// CheckOwners refuses a home that somebody else could change: they would choose the programs that
// banger runs. It looks at the directories that exist and at those above them, and makes none.
func CheckOwners(layout paths.Layout) error {
	for _, d := range directories(layout) {
		if err := checkDir(d); err != nil {
			return err
		}
		if err := checkAncestors(d.name, existing(d.path)); err != nil {
			return err
		}
	}
	return nil
}

// directory is a directory of a home and its name in errors.
type directory struct{ name, path string }

// directories returns what only the home's user may change. Below BANGER_HOME, that directory
// itself is one of them.
func directories(layout paths.Layout) []directory {
	all := []directory{
		{"state", layout.State}, {"cache", layout.Cache}, {"runtime", layout.Runtime}, {"configuration", layout.Config},
	}
	if top := filepath.Dir(layout.State); top == filepath.Dir(layout.Cache) && top == filepath.Dir(layout.Config) {
		all = append(all, directory{"home", top})
	}
	return all
}

// checkDir refuses a directory that belongs to somebody else, or that others may write to.
func checkDir(d directory) error {
	info, err := os.Stat(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return Unusable(fault.Denied, fmt.Errorf("looking at the %s directory: %w", d.name, err))
	}
	return checkOwner("the "+d.name+" directory "+d.path, d.path, info, os.Geteuid())
}

// CheckFile refuses an open configuration file that somebody else could have written.
func CheckFile(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("looking at %s: %w", f.Name(), err)
	}
	return checkOwner("the configuration file "+f.Name(), f.Name(), info, os.Geteuid())
}

// checkOwner checks a file or directory for the user me.
func checkOwner(what, path string, info fs.FileInfo, me int) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("looking at %s: the system does not report an owner", path)
	}
	mode := info.Mode().Perm()
	switch {
	case int(st.Uid) != me && st.Uid != 0:
		return fault.New(fault.Denied, "%s belongs to user %d, who could make banger run anything", what, st.Uid).
			WithHint("If you trust its contents: sudo chown -R %d %s. Otherwise set BANGER_HOME to a directory of your own.", me, path)
	case mode&0o002 != 0, mode&0o020 != 0 && !isOwnGroup(info, me):
		return fault.New(fault.Denied, "%s may be changed by others (mode %#o)", what, mode).
			WithHint("If you trust its contents: chmod go-w %s", path)
	}
	return nil
}

// existing returns a path, or the nearest directory above it that exists.
func existing(path string) string {
	for path != filepath.Dir(path) {
		if _, err := os.Stat(path); err == nil {
			break
		}
		path = filepath.Dir(path)
	}
	return path
}

// checkAncestors refuses a directory at or above which somebody else may rename the user's files.
// The directory must exist.
func checkAncestors(name, dir string) error {
	path, err := real(dir)
	if err != nil {
		return err
	}
	for up := path; ; up = filepath.Dir(up) {
		info, err := os.Lstat(up)
		if err != nil {
			return fmt.Errorf("looking at the %s directory: %w", name, err)
		}
		if err := checkAncestor(fmt.Sprintf("the %s directory %s is in %s", name, dir, up), up, info, os.Geteuid()); err != nil {
			return err
		}
		if up == filepath.Dir(up) {
			return nil
		}
	}
}

// unmapped is the owner that a user namespace shows for users that it does not have.
const unmapped = 65534

// checkAncestor checks one directory for the user me. Its owner may rename all that is in it. With
// the sticky bit, others that may write to it rename only what is theirs.
func checkAncestor(what, path string, info fs.FileInfo, me int) error {
	owner, mode := ownerOf(info), info.Mode().Perm()
	sticky := info.Mode()&fs.ModeSticky != 0
	switch {
	case owner != me && owner != 0 && !(path == "/" && owner == unmapped):
		return fault.New(fault.Denied, "%s, where user %d may rename and remove", what, owner).
			WithHint("Set BANGER_HOME to a directory of your own that is not in it. If it is meant for all users: sudo chown root %s", path)
	case mode&0o002 != 0 && !sticky:
		return fault.New(fault.Denied, "%s, where everybody may rename and remove", what).
			WithHint("Set BANGER_HOME to a directory of your own, or: chmod o-w %s", path)
	case mode&0o020 != 0 && !sticky && !isOwnGroup(info, me):
		return fault.New(fault.Denied, "%s, where the group %d may rename and remove", what, groupOf(info)).
			WithHint("Set BANGER_HOME to a directory of your own, or: chmod g-w %s", path)
	}
	return nil
}

// isOwnGroup reports whether a file's group is the user's own. Many distributions give each user a
// group of that user alone, with the same number, and make files that this group may write to.
func isOwnGroup(info fs.FileInfo, me int) bool { return me != 0 && groupOf(info) == me }

func groupOf(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Gid)
	}
	return -1
}

func ownerOf(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}
