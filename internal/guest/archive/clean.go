package archive

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"hash/maphash"
	"io"
	"io/fs"
	"strings"

	"banger/internal/fault"
	"banger/internal/guest/report"
)

const (
	maxFileName = 255       // NAME_MAX of Linux
	maxID       = 1<<32 - 2 // of a user or group; the next number means "unchanged" to chown(2)
)

// CleanOptions configure Clean and Export.
type CleanOptions struct {
	Limits
	// Source is the source as the caller of the copy named it. The stream must hold it. "" trusts
	// the stream.
	Source string
	// Umask is removed from all modes.
	Umask fs.FileMode
	// Note receives what the other end left out, as text that is safe for a terminal. It may be
	// nil.
	Note func(name, why string)
}

// Clean passes a stream on that a guest's Pack should have made. The result holds what Pack can
// make, without setuid, setgid and sticky bits. It ends with an error at the first entry that Pack
// cannot make. What the guest reports becomes a part of the result, marked as the guest's.
func Clean(ctx context.Context, w io.Writer, r io.Reader, opts CleanOptions) error {
	c := newCleaner(ctx, w, r, opts)
	reported, err := c.all()
	if err != nil {
		return err
	}
	records := map[string]string{recordEnd: "complete"}
	if reported != nil {
		records = map[string]string{recordError: report.Marked(reported.Error()), recordKind: string(fault.KindOf(reported))}
	}
	if err := writeGlobal(c.tw, records); err != nil {
		return err
	}
	return c.close()
}

// Export is Clean, but the result is a tar for any program: it has no global headers. An incomplete
// stream is an error, and the output up to it is not a valid tar.
func Export(ctx context.Context, w io.Writer, r io.Reader, opts CleanOptions) error {
	c := newCleaner(ctx, w, r, opts)
	c.plain = true
	reported, err := c.all()
	if err := errors.Join(err, reported); err != nil {
		return err
	}
	return c.close()
}

// cleaner checks a stream without a file system. Pack writes a directory before its contents, and
// the names of a directory in order. In this order, the open directories are enough to know that
// each name comes once and that only directories, and no links, hold others.
type cleaner struct {
	opts  CleanOptions
	tr    *tar.Reader
	out   *bufio.Writer
	tw    *tar.Writer // on out
	meter *meter
	buf   []byte
	plain bool // write no global headers

	root  string  // first component of all names; "" before the first entry
	trail []level // open directories, from the root; empty after a root that is no directory
	files map[uint64]struct{}
	seed  maphash.Seed // of the names in files: a guest must not find two with the same hash
}

// level is an open directory.
type level struct {
	name string
	last string // name of its latest entry
}

func newCleaner(ctx context.Context, w io.Writer, r io.Reader, opts CleanOptions) *cleaner {
	out := bufio.NewWriterSize(w, bufSize)
	return &cleaner{
		opts: opts, tr: tar.NewReader(bufio.NewReaderSize(stopReader{ctx, r}, bufSize)),
		out: out, tw: tar.NewWriter(out), meter: newMeter(opts.Limits), buf: make([]byte, bufSize),
		files: map[uint64]struct{}{}, seed: maphash.MakeSeed(),
	}
}

func (c *cleaner) close() error { return errors.Join(c.tw.Close(), c.out.Flush()) }

// all passes all entries on. reported is the error with which the other end ended the stream.
func (c *cleaner) all() (reported, err error) {
	for {
		h, err := c.tr.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil, badArchive("it ends before it is complete")
		case err != nil:
			return nil, explain("reading", "the archive", streamError(err))
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			if err := c.meter.add(0); err != nil {
				return nil, err
			}
			g, err := parseGlobal(h.PAXRecords, c.root == "")
			if g.done || err != nil {
				return g.reported, err
			}
			if err := c.skipped(g); err != nil {
				return nil, err
			}
			continue
		}
		if err := c.meter.add(h.Size); err != nil {
			return nil, err
		}
		if err := c.entry(h); err != nil {
			return nil, err
		}
	}
}

// skipped passes on that the other end left out an entry.
func (c *cleaner) skipped(g global) error {
	if g.name == "" {
		return nil
	}
	if c.opts.Note != nil {
		c.opts.Note(g.name, g.why)
	}
	if c.plain {
		return nil
	}
	return writeGlobal(c.tw, map[string]string{recordSkipped: g.name + "\t" + report.Marked(g.why)})
}

// entry passes one entry on with a header of our own.
func (c *cleaner) entry(h *tar.Header) error {
	if sparse(h) {
		return badArchive("%s is sparse", quoted(h.Name))
	}
	parts, err := components(h.Name)
	if err != nil {
		return err
	}
	if err := c.place(parts, h); err != nil {
		return err
	}
	if h.Uid < 0 || h.Uid > maxID || h.Gid < 0 || h.Gid > maxID {
		return badArchive("%s belongs to %d:%d", quoted(h.Name), h.Uid, h.Gid)
	}
	full := strings.Join(parts, "/")
	out := &tar.Header{
		Format: tar.FormatPAX, Typeflag: h.Typeflag, Name: full, Uid: h.Uid, Gid: h.Gid, ModTime: h.ModTime,
		Mode: h.Mode & 0o777 &^ int64(c.opts.Umask),
	}
	switch h.Typeflag {
	case tar.TypeDir:
		out.Name += "/"
	case tar.TypeReg:
		out.Size = h.Size
		if len(c.files) < maxLinks {
			c.files[maphash.String(c.seed, full)] = struct{}{}
		}
	case tar.TypeSymlink:
		out.Linkname, err = h.Linkname, checkTarget(h.Linkname)
	case tar.TypeLink:
		out.Linkname, err = h.Linkname, c.checkHardLink(h.Linkname)
	default:
		err = badArchive("type %q of entry is not one that is copied", h.Typeflag)
	}
	if err != nil {
		return err
	}
	return copyEntry(c.tw, c.tr, out, c.buf)
}

// place checks that an entry may come now: it is the root, or it is in an open directory and after
// that directory's earlier entries.
func (c *cleaner) place(parts []string, h *tar.Header) error {
	name, above := parts[len(parts)-1], parts[:len(parts)-1]
	if len(name) > maxFileName {
		return badArchive("the name %s is too long", quoted(name))
	}
	if c.root == "" {
		if err := c.checkRoot(parts, h); err != nil {
			return err
		}
		c.root = name
	} else {
		if len(above) == 0 || len(above) > len(c.trail) {
			return badArchive("%s is not below a directory of the archive", quoted(h.Name))
		}
		for i, part := range above {
			if c.trail[i].name != part {
				return badArchive("%s is not below a directory of the archive", quoted(h.Name))
			}
		}
		c.trail = c.trail[:len(above)]
		parent := &c.trail[len(above)-1]
		if name <= parent.last {
			return badArchive("%s is there twice or not in order", quoted(h.Name))
		}
		parent.last = name
	}
	if h.Typeflag == tar.TypeDir {
		c.trail = append(c.trail, level{name: name})
	}
	return nil
}

// checkRoot checks the first entry.
func (c *cleaner) checkRoot(parts []string, h *tar.Header) error {
	if len(parts) != 1 {
		return badArchive("it begins with %s, which is not the top of a tree", quoted(h.Name))
	}
	if parts[0] == "." && h.Typeflag != tar.TypeDir {
		return badArchive("%s is not a directory", quoted(h.Name))
	}
	if c.opts.Source == "" {
		return nil
	}
	if wanted, _ := Base(c.opts.Source); parts[0] != wanted {
		return badArchive("it holds %s instead of %s", quoted(parts[0]), quoted(wanted))
	}
	return nil
}

// checkHardLink checks that a hard link leads to an earlier file of the stream.
func (c *cleaner) checkHardLink(target string) error {
	parts, err := components(target)
	if err != nil {
		return err
	}
	if _, ok := c.files[maphash.String(c.seed, strings.Join(parts, "/"))]; !ok {
		return badArchive("a hard link to %s, which is not an earlier file", quoted(target))
	}
	return nil
}
