package archive

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
)

// UnpackOptions configure Unpack.
type UnpackOptions struct {
	Limits
	// Source is the source as the caller of the copy named it. The end that requested the copy must
	// set it, so that name and kind of the result do not come from the stream. "" trusts the
	// stream.
	Source string
	// Umask is removed from all modes.
	Umask fs.FileMode
	// Special keeps setuid, setgid and sticky bits. Never set it on the host: root in the guest
	// could leave programs that run as the host's user.
	Special bool
	// Owner maps the owner in the stream to the owner of the result. nil leaves the owner of this
	// process.
	Owner func(uid, gid int) (int, int)
	// Patience bounds the wait for a process that reads from the pipe dst. 0 waits for ever.
	Patience time.Duration
	// Note receives what the other end left out, as text that is safe for a terminal. It may be
	// nil.
	Note func(name, why string)
}

// Unpack makes the contents of a stream at dst, as Land decides and the package comment says. A
// file is complete when it gets its name; complete entries stay after an error. ctx is checked
// between reads; to end at once, close r.
func Unpack(ctx context.Context, r io.Reader, dst string, opts UnpackOptions) error {
	u := &unpacker{
		opts: opts, dst: dst, meter: newMeter(opts.Limits), buf: make([]byte, bufSize),
		tr: tar.NewReader(bufio.NewReaderSize(stopReader{ctx, r}, bufSize)),
	}
	err := u.all(ctx)
	// Directories that are still open get their modes and times also after an error.
	return errors.Join(err, u.leave(0))
}

type unpacker struct {
	opts  UnpackOptions
	dst   string
	tr    *tar.Reader
	meter *meter
	buf   []byte

	root  string // first component of all names, or "."; "" before the first entry
	lone  bool   // the first entry is no directory, so it is the only one
	feed  bool   // it goes to dst, which is a device or a pipe
	base  string // name of root in the landing directory
	trail []step // open directories: the landing one, then those that lead to the last entry
}

// step is an open directory on the way to an entry. The landing directory has the name "".
type step struct {
	dir
	name string
	made *tar.Header // applied when the directory is left; nil if it existed before
}

func (u *unpacker) all(ctx context.Context) error {
	for {
		h, err := u.tr.Next()
		switch {
		case errors.Is(err, io.EOF):
			return badArchive("it ends before it is complete")
		case err != nil:
			return explain("reading", "the archive", streamError(err))
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			if done, err := u.global(h.PAXRecords); done || err != nil {
				return err
			}
			continue
		}
		if err := u.meter.add(h.Size); err != nil {
			return err
		}
		if err := u.entry(ctx, h); err != nil {
			return err
		}
	}
}

// streamError tells a malformed stream from a read error.
func streamError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fault.New(fault.Invalid, "%w", err)
	}
	return err
}

// global handles a message of the other end. It reports whether it was the last one.
func (u *unpacker) global(records map[string]string) (done bool, err error) {
	if err := u.meter.add(0); err != nil {
		return false, err
	}
	g, err := parseGlobal(records, u.root == "")
	if g.name != "" && u.opts.Note != nil {
		u.opts.Note(g.name, g.why)
	}
	return g.done, errors.Join(err, g.reported)
}

// entry makes the entry of h.
func (u *unpacker) entry(ctx context.Context, h *tar.Header) error {
	if sparse(h) {
		return badArchive("%s is sparse", quoted(h.Name))
	}
	parts, err := components(h.Name)
	if err != nil {
		return err
	}
	switch {
	case u.root == "":
		if err := u.land(parts, h); err != nil {
			return err
		}
	case u.lone:
		return badArchive("%s comes after %s, which is not a directory", quoted(h.Name), quoted(u.root))
	}
	if u.feed {
		_, err := Feed(ctx, u.dst, u.tr, u.opts.Patience)
		return explain("writing to", u.dst, streamError(err))
	}
	if parts, err = u.inside(h.Name, parts); err != nil {
		return err
	}
	if len(parts) == 0 { // the landing directory itself
		if h.Typeflag != tar.TypeDir {
			return badArchive("%s is not a directory", quoted(h.Name))
		}
		return u.leave(1)
	}
	parent, err := u.enter(parts[:len(parts)-1])
	if err != nil {
		return err
	}
	name := parts[len(parts)-1]
	switch h.Typeflag {
	case tar.TypeDir:
		err = u.directory(parent, name, h)
	case tar.TypeReg:
		err = u.file(parent, name, h)
	case tar.TypeSymlink:
		err = u.symlink(parent, name, h)
	case tar.TypeLink:
		err = u.hardLink(parent, name, h)
	default:
		err = badArchive("type %q of entry is not one that is copied", h.Typeflag)
	}
	return explain("making", quoted(h.Name), err)
}

// components splits a name of the archive. It refuses names that could mean another place.
func components(name string) ([]string, error) {
	if len(name) > maxName {
		return nil, badArchive("a name has %d bytes", len(name))
	}
	parts := strings.Split(strings.TrimSuffix(name, "/"), "/")
	if len(parts) > maxDepth+2 {
		return nil, badArchive("%s lies too deep", quoted(name))
	}
	for i, part := range parts {
		if part == "" || part == ".." || (part == "." && i > 0) || strings.ContainsRune(part, 0) {
			return nil, badArchive("the name %s is not a plain one", quoted(name))
		}
	}
	return parts, nil
}

// land opens the landing directory after the first entry has shown the kind of the source.
func (u *unpacker) land(parts []string, h *tar.Header) error {
	if len(parts) != 1 {
		return badArchive("it begins with %s, which is not the top of a tree", quoted(h.Name))
	}
	u.root = parts[0]
	wanted := u.root
	if u.opts.Source != "" {
		wanted, _ = Base(u.opts.Source)
		if (wanted == ".") != (u.root == ".") {
			return badArchive("it holds %s instead of %s", quoted(u.root), quoted(wanted))
		}
	}
	at := Missing
	switch info, err := os.Stat(u.dst); {
	case err == nil && info.IsDir():
		at = Directory
	case err == nil:
		at = Other
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return fault.New(fault.WrongState, "%s cannot be a destination: %w", u.dst, stripPath(err))
	case !errors.Is(err, fs.ErrNotExist):
		return explain("looking at", u.dst, stripPath(err))
	}
	u.lone = h.Typeflag != tar.TypeDir
	directory, name, err := Land(wanted, !u.lone, u.dst, at)
	if err != nil {
		return err
	}
	if u.lone && at != Directory {
		if directory, name, err = u.named(h, directory, name); u.feed || err != nil {
			return err
		}
	}
	d, err := openDir(directory)
	if err != nil {
		return explain("opening", directory, stripPath(err))
	}
	u.base = name
	u.trail = []step{{dir: d}}
	return nil
}

// named returns where a single file lands that the user gave a name: a link to a file is followed,
// but a link replaces a link, as with cp -a.
func (u *unpacker) named(h *tar.Header, directory, name string) (string, string, error) {
	if info, err := os.Lstat(u.dst); err == nil && h.Typeflag != tar.TypeReg && info.Mode()&fs.ModeSymlink != 0 {
		return directory, name, nil
	}
	real, special, err := Follow(u.dst)
	switch {
	case err != nil:
		return "", "", err
	case special && h.Typeflag != tar.TypeReg:
		return "", "", fault.New(fault.WrongState, "%s is a device or a pipe, and only a file can be copied there", u.dst)
	}
	u.feed = special
	directory, name = split(real)
	return directory, name, nil
}

// inside returns the path from the landing directory to an entry, or to the target of a hard link.
func (u *unpacker) inside(name string, parts []string) ([]string, error) {
	if parts[0] != u.root {
		return nil, badArchive("%s is not below %s", quoted(name), quoted(u.root))
	}
	if u.base == "." {
		return parts[1:], nil
	}
	return append([]string{u.base}, parts[1:]...), nil
}

// enter opens the directories that lead to an entry and returns the last one. Most are open
// already.
func (u *unpacker) enter(way []string) (dir, error) {
	same := 0
	for same < len(way) && same+1 < len(u.trail) && u.trail[same+1].name == way[same] {
		same++
	}
	if err := u.leave(same + 1); err != nil {
		return dir{}, err
	}
	for _, name := range way[same:] {
		d, err := u.last().sub(name)
		if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
			return dir{}, badArchive("%s is not a directory, but an entry is below it", quoted(strings.Join(way, "/")))
		}
		if err != nil {
			return dir{}, explain("opening", quoted(strings.Join(way, "/")), err)
		}
		u.trail = append(u.trail, step{dir: d, name: name})
	}
	return u.last(), nil
}

func (u *unpacker) last() dir { return u.trail[len(u.trail)-1].dir }

// leave closes open directories until n are left. A directory gets its mode and times when it is
// left: filling it changes its times and may need permissions that its mode lacks.
func (u *unpacker) leave(n int) error {
	var errs []error
	for len(u.trail) > n {
		s := u.trail[len(u.trail)-1]
		u.trail = u.trail[:len(u.trail)-1]
		if s.made != nil {
			errs = append(errs, explain("finishing", quoted(s.name), u.finish(s.f, s.made)))
		}
		s.close()
	}
	return errors.Join(errs...)
}
