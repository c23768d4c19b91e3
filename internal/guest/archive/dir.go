package archive

import (
	"crypto/rand"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
)

// dir is an open directory. Its methods take single names and never follow a symbolic link.
type dir struct{ f *os.File }

func (d dir) fd() int      { return int(d.f.Fd()) }
func (d dir) close() error { return d.f.Close() }

// openDir opens a directory by the user's own path, whose symbolic links are followed.
func openDir(path string) (dir, error) {
	f, err := os.OpenFile(path, unix.O_DIRECTORY, 0)
	return dir{f}, err
}

func (d dir) openAt(name string, flags int, mode uint32) (*os.File, error) {
	for {
		fd, err := unix.Openat(d.fd(), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// sub opens a directory in d.
func (d dir) sub(name string) (dir, error) {
	f, err := d.openAt(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	return dir{f}, err
}

func (d dir) lstat(name string) (st unix.Stat_t, err error) {
	err = unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

func (d dir) readlink(name string) (string, error) {
	buf := make([]byte, maxTarget+1)
	n, err := unix.Readlinkat(d.fd(), name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// names lists at most limit+1 names in d.
func (d dir) names(limit int64) ([]string, error) {
	var all []string
	for int64(len(all)) <= limit {
		some, err := d.f.Readdirnames(1024)
		all = append(all, some...)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// replace gives name to what fill makes under the name part. So the old file stays until the new
// one is complete, and nothing stays of an incomplete one. Only files and links are replaced.
func (d dir) replace(name string, fill func(part string) error) (err error) {
	switch st, err := d.lstat(name); {
	case errors.Is(err, unix.ENOENT):
	case err != nil:
		return err
	case isDir(st):
		return fault.New(fault.WrongState, "the name exists and is a directory")
	case unsupported(st) != "":
		return fault.New(fault.WrongState, "the name exists and is %s", unsupported(st))
	}
	part := ".banger-" + rand.Text()
	if err = fill(part); err == nil {
		err = unix.Renameat(d.fd(), part, d.fd(), name)
	}
	if err != nil {
		_ = unix.Unlinkat(d.fd(), part, 0)
	}
	return err
}

func isDir(st unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }
