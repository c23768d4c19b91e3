package agent

import (
	"errors"
	"io/fs"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/guest/proto"
)

// writesService finds out what a boot has written.
type writesService struct{ marks *marks }

// Bounds on the search.
const (
	maxVisited = 200_000  // files and directories
	maxHook    = 64 << 10 // bytes of a hook that are read
)

// written lists the directories of the search. The volumes have file systems of their own.
var written = []string{"/etc", "/var/lib", "/var/lib/docker", "/var/lib/containerd", "/root"}

// writes answers GET /v1/writes, also while the processes are frozen. The image's files and those
// that the agent wrote for the identity are older. A change gives a file the time of the change
// (inode(7), st_ctime). The init starts more than a tick of that clock after the identity.
func (s *writesService) writes(*http.Request) (any, error) {
	all := s.marks.all()
	i := slices.IndexFunc(all, func(m proto.Mark) bool { return m.Name == "assumed" })
	if i < 0 {
		return nil, fault.New(fault.WrongState, "this machine has no identity yet")
	}
	w := writtenSince(time.Now().Add(all[i].At-sinceBoot()), written...)
	w.Renewed = renewed(hooksDir)
	return w, nil
}

// writtenSince finds the files that changed since a moment. It follows no link and enters no other
// file system.
func writtenSince(since time.Time, roots ...string) proto.Writes {
	w := proto.Writes{Paths: []string{}}
	left := maxVisited // and no time: a slow search says nothing of what was written
	for _, root := range roots {
		var top unix.Stat_t
		if unix.Lstat(root, &top) != nil {
			continue
		}
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			var st unix.Stat_t
			if left--; left < 0 {
				return errTooMany
			}
			if err != nil || unix.Lstat(path, &st) != nil {
				return nil // it is gone, or nobody can read it
			}
			switch st.Mode & unix.S_IFMT {
			case unix.S_IFDIR:
				if st.Dev != top.Dev {
					return fs.SkipDir
				}
				return nil
			case unix.S_IFREG:
				if st.Size == 0 {
					return nil
				}
			case unix.S_IFLNK:
			default: // it holds nothing
				return nil
			}
			if time.Unix(st.Ctim.Unix()).Before(since) {
				return nil
			}
			if len(w.Paths) == proto.MaxWrites || len(path) > proto.MaxWritePath {
				return errTooMany
			}
			w.Paths = append(w.Paths, path)
			return nil
		})
		w.More = w.More || err != nil
	}
	return w
}

var errTooMany = errors.New("too many files")

// renewed lists the files that the fork hooks in a directory say they make anew.
func renewed(dir string) (paths []string) {
	for _, name := range executables(dir) {
		data, err := readBounded(filepath.Join(dir, name), maxHook)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			path, ok := strings.CutPrefix(strings.TrimSpace(line), proto.WritesRenewed)
			if ok && len(paths) < proto.MaxWrites && filepath.IsAbs(path) {
				paths = append(paths, path)
			}
		}
	}
	return paths
}
