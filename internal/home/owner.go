package home

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"banger/internal/fault"
	"banger/internal/paths"
)

// CheckOwners refuses a home that somebody else could change: they would choose the programs that
// banger runs. It looks at the directories that exist and at those above them, and makes none.
func CheckOwners(layout paths.Layout) error {
	c := newChecker()
	for _, d := range directories(layout) {
		found, err := c.check(d)
		if err == nil && found.info != nil {
			err = checkOwner("the "+d.name+" directory "+d.path, d.path, found.info, c.me)
		}
		if err != nil {
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

// checker refuses a directory above which somebody else may rename the user's files. It looks
// at each directory once, because every command checks all directories of the home, and most of
// those above them are the same. Not for concurrent use.
type checker struct {
	me    int
	known map[string]found // by path, without symbolic links above it
}

// found is a file with a path that has no symbolic links above it. The info is nil if nothing is
// there.
type found struct {
	path   string
	info   fs.FileInfo
	target string // of a symbolic link
}

func newChecker() *checker { return &checker{me: os.Geteuid(), known: map[string]found{}} }

// maxLinks is how many symbolic links one path may have (path_resolution(7)).
const maxLinks = 40

// check resolves a directory's path, and checks all directories and links on the way. If something
// is missing, the result has no info.
func (c *checker) check(d directory) (found, error) {
	here, err := c.at(d, "/")
	todo, links := strings.Split(d.path, "/"), 0
	for len(todo) > 0 && err == nil && here.info != nil {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			here, err = c.at(d, filepath.Dir(here.path))
			continue
		}
		if err := checkAncestor(d, here, c.me); err != nil {
			return found{}, err
		}
		next, nextErr := c.at(d, filepath.Join(here.path, part))
		if nextErr != nil || next.target == "" {
			here, err = next, nextErr
			continue
		}
		if links++; links > maxLinks {
			return found{}, fault.New(fault.Denied, "the %s directory %s is behind more than %d symbolic links", d.name, d.path, maxLinks).
				WithHint("Set BANGER_HOME to a directory of your own.")
		}
		if filepath.IsAbs(next.target) {
			here, err = c.at(d, "/")
		}
		todo = append(strings.Split(next.target, "/"), todo...)
	}
	return here, err
}

// at looks at one path, and refuses a symbolic link that somebody else may change.
func (c *checker) at(d directory, path string) (found, error) {
	if f, ok := c.known[path]; ok {
		return f, nil
	}
	info, err := os.Lstat(path)
	if err != nil {
		return found{}, d.unreadable(err)
	}
	f := found{path: path, info: info}
	if info.Mode()&fs.ModeSymlink != 0 {
		if owner := ownerOf(info); owner != c.me && owner != 0 {
			return found{}, fault.New(fault.Denied, "the %s directory %s is behind %s, a symbolic link that user %d may change", d.name, d.path, path, owner).
				WithHint("Set BANGER_HOME to a directory of your own.")
		}
		if f.target, err = os.Readlink(path); err != nil {
			return found{}, d.unreadable(err)
		}
	}
	c.known[path] = f
	return f, nil
}

// unreadable returns nil if the directory is merely missing.
func (d directory) unreadable(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return Unusable(fault.Denied, fmt.Errorf("looking at the %s directory: %w", d.name, err))
}

// unmapped is the owner that a user namespace shows for users that it does not have.
const unmapped = 65534

// checkAncestor checks a directory above d for the user me. Its owner may rename all that is in it.
// With the sticky bit, others that may write to it rename only what is theirs.
func checkAncestor(d directory, above found, me int) error {
	path, info := above.path, above.info
	owner, mode := ownerOf(info), info.Mode().Perm()
	sticky := info.Mode()&fs.ModeSticky != 0
	what := "the " + d.name + " directory " + d.path + " is in " + path
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
