package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
)

// TarDirectory returns a directory as a tar stream in the order of names. It follows no links, and
// leaves out mounts and sockets. It keeps owners if root reads; otherwise all files belong to root.
func TarDirectory(ctx context.Context, dir string) io.ReadCloser {
	pr, pw := io.Pipe()
	go func() {
		w := &directoryWriter{tw: tar.NewWriter(pw), root: dir, keepOwner: os.Geteuid() == 0, seen: map[[2]uint64]string{}}
		err := w.walk(ctx)
		if err == nil {
			err = w.tw.Close()
		}
		pw.CloseWithError(err)
	}()
	return pr
}

type directoryWriter struct {
	tw        *tar.Writer
	root      string
	device    uint64 // the root's
	keepOwner bool
	// seen holds the first name of each file with several, by device and inode.
	seen map[[2]uint64]string
}

func (w *directoryWriter) walk(ctx context.Context) error {
	root, err := filepath.EvalSymlinks(w.root)
	if err != nil {
		return err
	}
	w.root = root
	return filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return explainAccess(err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("looking at %s: %w", path, err)
		}
		if path == root {
			w.device = st.Dev
		}
		if st.Dev != w.device {
			// A mount hides its directory. An empty directory stands for it.
			if st.Mode&unix.S_IFMT != unix.S_IFDIR {
				return nil
			}
			return errors.Join(w.add(path, &st), fs.SkipDir)
		}
		return w.add(path, &st)
	})
}

// explainAccess adds a hint for a file that only root may read.
func explainAccess(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fault.New(fault.Denied, "%w", err).
			WithHint("Make a tarball of the directory as a user who can read it, and import that.")
	}
	return err
}

var fileTypes = map[uint32]byte{
	unix.S_IFREG: tar.TypeReg, unix.S_IFDIR: tar.TypeDir, unix.S_IFLNK: tar.TypeSymlink,
	unix.S_IFCHR: tar.TypeChar, unix.S_IFBLK: tar.TypeBlock, unix.S_IFIFO: tar.TypeFifo,
}

func (w *directoryWriter) add(path string, st *unix.Stat_t) error {
	typ, known := fileTypes[st.Mode&unix.S_IFMT]
	if !known {
		return nil
	}
	rel, err := filepath.Rel(w.root, path)
	if err != nil {
		return err
	}
	hdr, err := w.header(path, "./"+rel, typ, st)
	if err != nil {
		return err
	}
	if typ != tar.TypeDir && st.Nlink > 1 {
		key := [2]uint64{st.Dev, st.Ino}
		if first, ok := w.seen[key]; ok {
			return w.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeLink, Name: hdr.Name, Linkname: first, Format: tar.FormatPAX})
		}
		w.seen[key] = hdr.Name
	}
	if typ != tar.TypeReg {
		return w.tw.WriteHeader(hdr)
	}
	return w.file(path, hdr)
}

func (w *directoryWriter) header(path, name string, typ byte, st *unix.Stat_t) (*tar.Header, error) {
	hdr := &tar.Header{
		Typeflag: typ, Name: name, Mode: int64(st.Mode & 0o7777), ModTime: clampTime(timeOf(st.Mtim)), Format: tar.FormatPAX,
		PAXRecords: map[string]string{},
	}
	if w.keepOwner {
		hdr.Uid, hdr.Gid = int(st.Uid), int(st.Gid)
	}
	switch typ {
	case tar.TypeReg:
		hdr.Size = st.Size
	case tar.TypeSymlink:
		target, err := os.Readlink(path)
		if err != nil {
			return nil, err
		}
		hdr.Linkname = target
	case tar.TypeChar, tar.TypeBlock:
		hdr.Devmajor, hdr.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	for name, value := range xattrsOf(path) {
		if goodXattr(name) {
			hdr.PAXRecords[xattrRecord+name] = value
		}
	}
	return hdr, nil
}

// file writes a regular file. The file must not change its type or size meanwhile.
func (w *directoryWriter) file(path string, hdr *tar.Header) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return explainAccess(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() != hdr.Size {
		return errors.Join(err, invalid("%s changes while it is read", path))
	}
	if err := w.tw.WriteHeader(hdr); err != nil {
		return err
	}
	if _, err := io.CopyN(w.tw, f, hdr.Size); err == io.EOF {
		return invalid("%s changes while it is read", path)
	} else if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// xattrsOf reads a file's extended attributes. It skips unreadable ones, as other tools do.
func xattrsOf(path string) map[string]string {
	list := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Llistxattr(path, list)
	if err != nil || n == 0 {
		return nil
	}
	xattrs := map[string]string{}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for _, name := range strings.Split(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		if n, err := unix.Lgetxattr(path, name, value); err == nil {
			xattrs[name] = string(value[:n])
		}
	}
	return xattrs
}

func timeOf(t unix.Timespec) time.Time { return time.Unix(t.Unix()) }
