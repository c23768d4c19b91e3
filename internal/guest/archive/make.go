package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
)

// directory makes a directory, or opens an existing one.
func (u *unpacker) directory(parent dir, name string, h *tar.Header) error {
	made := h
	err := unix.Mkdirat(parent.fd(), name, 0o700)
	if errors.Is(err, unix.EEXIST) {
		made, err = nil, nil
	}
	if err != nil {
		return err
	}
	d, err := parent.sub(name)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return fault.New(fault.WrongState, "the name exists and is not a directory")
	}
	if err != nil {
		return err
	}
	u.trail = append(u.trail, step{dir: d, name: name, made: made})
	return nil
}

// file makes a regular file.
func (u *unpacker) file(parent dir, name string, h *tar.Header) error {
	return parent.replace(name, func(part string) (err error) {
		f, err := parent.openAt(part, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
		if err != nil {
			return fmt.Errorf("no file can be made in its directory: %w", err)
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		if _, err := io.CopyBuffer(struct{ io.Writer }{f}, u.tr, u.buf); err != nil {
			return streamError(stripPath(err)) // nobody knows the name part
		}
		return u.finish(f, h)
	})
}

// finish sets owner, mode and time, in this order: changing the owner clears special bits.
func (u *unpacker) finish(f *os.File, h *tar.Header) error {
	fd := int(f.Fd())
	if u.opts.Owner != nil {
		uid, gid := u.opts.Owner(h.Uid, h.Gid)
		if err := unix.Fchown(fd, uid, gid); err != nil {
			return err
		}
	}
	mode := uint32(h.Mode) & 0o777
	if u.opts.Special {
		mode = uint32(h.Mode) & 0o7777
	}
	if err := unix.Fchmod(fd, mode&^uint32(u.opts.Umask)); err != nil {
		return err
	}
	return futimens(fd, h.ModTime)
}

// futimens is utimensat(2) without a name, as in the C library. Package unix has only the form with
// a name.
func futimens(fd int, t time.Time) error {
	ts := timespecs(t)
	if _, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// timespecs returns both times of a file. The last access gets the time of the last change.
func timespecs(t time.Time) [2]unix.Timespec {
	ts := unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
	return [2]unix.Timespec{ts, ts}
}

func (u *unpacker) symlink(parent dir, name string, h *tar.Header) error {
	if err := checkTarget(h.Linkname); err != nil {
		return err
	}
	return parent.replace(name, func(part string) error {
		if err := unix.Symlinkat(h.Linkname, parent.fd(), part); err != nil {
			return err
		}
		if u.opts.Owner != nil {
			uid, gid := u.opts.Owner(h.Uid, h.Gid)
			if err := unix.Fchownat(parent.fd(), part, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return err
			}
		}
		ts := timespecs(h.ModTime)
		return unix.UtimesNanoAt(parent.fd(), part, ts[:], unix.AT_SYMLINK_NOFOLLOW)
	})
}

// hardLink gives another name to a file of the same tree.
func (u *unpacker) hardLink(parent dir, name string, h *tar.Header) error {
	parts, err := components(h.Linkname)
	if err != nil {
		return err
	}
	if parts, err = u.inside(h.Linkname, parts); err != nil {
		return err
	}
	if len(parts) == 0 {
		return badArchive("a hard link to the top")
	}
	from := u.trail[0].dir
	for _, part := range parts[:len(parts)-1] {
		next, err := from.sub(part)
		if from != u.trail[0].dir {
			from.close()
		}
		if err != nil {
			return badArchive("a hard link to %s, which is not there: %w", quoted(h.Linkname), err)
		}
		from = next
	}
	if from != u.trail[0].dir {
		defer from.close()
	}
	target := parts[len(parts)-1]
	st, err := from.lstat(target)
	if err != nil {
		return badArchive("a hard link to %s, which is not there: %w", quoted(h.Linkname), err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return badArchive("a hard link to %s, which is not a file", quoted(h.Linkname))
	}
	if there, err := parent.lstat(name); err == nil && there.Ino == st.Ino && there.Dev == st.Dev {
		return nil
	}
	return parent.replace(name, func(part string) error {
		return unix.Linkat(from.fd(), target, parent.fd(), part, 0)
	})
}
