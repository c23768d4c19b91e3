package agent

import (
	"errors"
	"io/fs"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/guest/agent/hook"
	"banger/internal/guest/agent/mount"
	"banger/internal/guest/proto"
)

// writesService finds out what a boot has written.
type writesService struct {
	marks  *marks
	drives *mount.Drives
}

const maxVisited = 200_000 // files and directories of the search

// passing are directories whose files no program relies on later.
var passing = []string{"/tmp", "/run", "/var/log", "/var/cache", "/var/tmp"}

// writes answers GET /v1/writes, also while the processes are frozen. The image's files and those
// that the agent wrote for the identity are older. A change gives a file the time of the change
// (inode(7), st_ctime). The init starts more than a tick of that clock after the identity.
func (s *writesService) writes(*http.Request) (any, error) {
	since, ok := s.marks.since("assumed")
	if !ok {
		return nil, fault.New(fault.WrongState, "this machine has no identity yet")
	}
	w := writtenSince(since, s.drives.Layers()...)
	w.Renewed = hook.Renewed(hook.Dir)
	return w, nil
}

// writtenSince finds the files that changed since a moment. It follows no link and enters no other
// file system.
func writtenSince(since time.Time, layers ...mount.Layer) proto.Writes {
	s := search{since: since, left: maxVisited, found: proto.Writes{Paths: []string{}}}
	for _, layer := range layers {
		if err := s.layer(layer); err != nil {
			s.found.More = true
		}
	}
	return s.found
}

// search is a search for files. It has no deadline: a slow search says nothing of what was written.
type search struct {
	since time.Time
	left  int // files and directories that may still be visited
	found proto.Writes
}

func (s *search) layer(layer mount.Layer) error {
	var top unix.Stat_t
	if err := unix.Lstat(layer.Dir, &top); err != nil {
		if layer.Shown != "/" && err == unix.ENOENT {
			return nil
		}
		return err // what it holds is not known
	}
	return filepath.WalkDir(layer.Dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if s.left--; s.left < 0 {
			return errTooMany
		}
		if err != nil || unix.Lstat(path, &st) != nil {
			return nil // it is gone
		}
		rel, err := filepath.Rel(layer.Dir, path)
		if err != nil {
			return err
		}
		shown := filepath.Join(layer.Shown, rel)
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			if st.Dev != top.Dev || slices.Contains(passing, shown) {
				return fs.SkipDir
			}
			return nil
		}
		return s.file(shown, &st)
	})
}

// file takes a file that is no directory.
func (s *search) file(path string, st *unix.Stat_t) error {
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFLNK && (kind != unix.S_IFREG || st.Size == 0) {
		return nil // it holds nothing
	}
	if time.Unix(st.Ctim.Unix()).Before(s.since) {
		return nil
	}
	if len(s.found.Paths)+len(s.found.Links) == proto.MaxWrites || len(path) > proto.MaxWritePath {
		return errTooMany
	}
	if kind == unix.S_IFLNK {
		s.found.Links = append(s.found.Links, path)
	} else {
		s.found.Paths = append(s.found.Paths, path)
	}
	return nil
}

var errTooMany = errors.New("too many files")
