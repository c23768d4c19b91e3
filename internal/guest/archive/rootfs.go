package archive

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

	"golang.org/x/sys/unix"

	"banger/internal/fault"
)

// xattrRecord begins the PAX record of an extended attribute, as star, GNU tar and docker write it.
const xattrRecord = "SCHILY.xattr."

// PackRoot returns a directory with a root file system as a plain tar stream, names in order. It
// keeps devices, pipes and extended attributes, and owners if root reads. It follows no links.
func PackRoot(ctx context.Context, dir string) io.ReadCloser {
	pr, pw := io.Pipe()
	go func() {
		w := &rootPacker{tw: tar.NewWriter(pw), root: dir, keepOwner: os.Geteuid() == 0, seen: map[inode]string{}}
		err := w.walk(ctx)
		if err == nil {
			err = w.tw.Close()
		}
		pw.CloseWithError(err)
	}()
	return pr
}

// rootPacker packs one root file system. Sockets are left out, and so is what is mounted below the
// root.
type rootPacker struct {
	tw        *tar.Writer
	root      string
	device    uint64 // of the root
	keepOwner bool
	seen      map[inode]string // the first name of files that have several
}

func (w *rootPacker) walk(ctx context.Context) error {
	root, err := filepath.EvalSymlinks(w.root)
	if err != nil {
		return explain("reading", w.root, stripPath(err))
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
			return explain("reading", path, err)
		}
		if path == root {
			w.device = st.Dev
		}
		if st.Dev != w.device {
			// The mount hides the directory below it; an empty one stands for that.
			if st.Mode&unix.S_IFMT != unix.S_IFDIR {
				return nil
			}
			return errors.Join(w.add(path, &st), fs.SkipDir)
		}
		return w.add(path, &st)
	})
}

// explainAccess gives the error of a file that only root may read a hint.
func explainAccess(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fault.New(fault.Denied, "%w", err).
			WithHint("Make a tarball of the directory with the rights that reading it needs, and import that.")
	}
	return err
}

// rootTypes returns the tar type of each file type that a root file system may hold.
func rootTypes() map[uint32]byte {
	return map[uint32]byte{
		unix.S_IFREG: tar.TypeReg, unix.S_IFDIR: tar.TypeDir, unix.S_IFLNK: tar.TypeSymlink,
		unix.S_IFCHR: tar.TypeChar, unix.S_IFBLK: tar.TypeBlock, unix.S_IFIFO: tar.TypeFifo,
	}
}

func (w *rootPacker) add(path string, st *unix.Stat_t) error {
	typ, known := rootTypes()[st.Mode&unix.S_IFMT]
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
		key := inode{uint64(st.Dev), st.Ino}
		if first, ok := w.seen[key]; ok {
			link := &tar.Header{Typeflag: tar.TypeLink, Name: hdr.Name, Linkname: first, Format: tar.FormatPAX}
			return w.tw.WriteHeader(link)
		}
		w.seen[key] = hdr.Name
	}
	if typ != tar.TypeReg {
		return w.tw.WriteHeader(hdr)
	}
	return w.file(path, hdr)
}

func (w *rootPacker) header(path, name string, typ byte, st *unix.Stat_t) (*tar.Header, error) {
	p := packer{opts: PackOptions{Owner: w.keepOwner}}
	hdr := p.header(name, typ, *st)
	hdr.PAXRecords = map[string]string{}
	switch typ {
	case tar.TypeReg:
		hdr.Size = st.Size
	case tar.TypeSymlink:
		target, err := os.Readlink(path)
		if err != nil {
			return nil, explain("reading", path, stripPath(err))
		}
		hdr.Linkname = target
	case tar.TypeChar, tar.TypeBlock:
		hdr.Devmajor, hdr.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	for name, value := range xattrsOf(path) {
		hdr.PAXRecords[xattrRecord+name] = value
	}
	return hdr, nil
}

// file packs a regular file. It must not turn into something else, grow or shrink meanwhile.
func (w *rootPacker) file(path string, hdr *tar.Header) error {
	changed := func() error { return fault.New(fault.Invalid, "%s changes while it is read", path) }
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return explainAccess(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() != hdr.Size {
		return errors.Join(err, changed())
	}
	if err := w.tw.WriteHeader(hdr); err != nil {
		return err
	}
	if _, err := io.CopyN(w.tw, f, hdr.Size); err == io.EOF {
		return changed()
	} else if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// xattrsOf reads a file's extended attributes that a tar can carry. Those that cannot be read are
// left out, as other tools do: few file systems have all of them.
func xattrsOf(path string) map[string]string {
	list := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Llistxattr(path, list)
	if err != nil || n == 0 {
		return nil
	}
	xattrs := map[string]string{}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for _, name := range strings.Split(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		class, rest, _ := strings.Cut(name, ".")
		if class != "user" && class != "security" && class != "trusted" || rest == "" || strings.Contains(name, "=") {
			continue
		}
		if n, err := unix.Lgetxattr(path, name, value); err == nil {
			xattrs[name] = string(value[:n])
		}
	}
	return xattrs
}
