package archive

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/guest/report"
)

// maxLinks bounds the memory for finding hard links. Further files with several names are packed
// once per name.
const maxLinks = 1 << 20

// PackOptions configure Pack.
type PackOptions struct {
	Limits
	Owner bool // keep owners and groups, as numbers
	// Note is called for entries that are left out: sockets, devices, pipes, vanished files. It may
	// be nil.
	Note func(name, why string)
}

// Pack writes src, a file or a tree, as a stream to w. It keeps modes, nanosecond times, symbolic
// links and hard links within the tree, but no holes. A src with a final "/" is followed if it is a
// link; "/." means the contents. After a read error the stream is marked as incomplete.
func Pack(ctx context.Context, w io.Writer, src string, opts PackOptions) error {
	p := newPacker(ctx, w, opts)
	return p.end(p.source(src))
}

func newPacker(ctx context.Context, w io.Writer, opts PackOptions) *packer {
	out := bufio.NewWriterSize(w, bufSize)
	return &packer{
		ctx: ctx, opts: opts, out: out, tw: tar.NewWriter(out), meter: newMeter(opts.Limits),
		links: map[inode]string{}, buf: make([]byte, bufSize),
	}
}

// end finishes the stream and reports the outcome of packing to the other side. It returns err, or
// its own error.
func (p *packer) end(err error) error {
	if p.broken != nil {
		return p.broken
	}
	records := map[string]string{recordEnd: "complete"}
	if err != nil {
		records = map[string]string{recordError: report.Text(err.Error()), recordKind: string(fault.KindOf(err))}
	}
	last := writeGlobal(p.tw, records)
	if last == nil {
		last = p.tw.Close()
	}
	if last == nil {
		last = p.out.Flush()
	}
	if err != nil {
		return err
	}
	return last
}

type inode struct{ dev, ino uint64 }

type packer struct {
	ctx   context.Context
	opts  PackOptions
	out   *bufio.Writer
	tw    *tar.Writer // on out
	meter *meter
	links map[inode]string // first name of each file that has several
	buf   []byte

	// broken is the error that ended the stream within an entry. Nothing more can be written then.
	broken error
}

// source packs what the user named.
func (p *packer) source(src string) error {
	if src == "" {
		return fault.New(fault.Invalid, "the source is empty")
	}
	root, contents := Base(src)
	if contents || strings.HasSuffix(src, "/") {
		d, err := openDir(src)
		if err != nil {
			return explain("reading", src, stripPath(err))
		}
		defer d.close()
		return p.directory(d, root, 0)
	}
	parent, _ := split(src)
	d, err := openDir(parent)
	if err != nil {
		return explain("reading", src, stripPath(err))
	}
	defer d.close()
	if st, err := d.lstat(root); err != nil {
		return explain("reading", src, err)
	} else if why := unsupported(st); why != "" {
		return fault.New(fault.Invalid, "%s is %s, which cannot be copied", src, why)
	}
	return p.entry(d, root, root, 0)
}

// stripPath strips package os's text about the path, which explain adds again.
func stripPath(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// unsupported names the type of st if it cannot be copied.
func unsupported(st unix.Stat_t) string {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK:
		return ""
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFIFO:
		return "a pipe"
	case unix.S_IFBLK, unix.S_IFCHR:
		return "a device"
	}
	return "of an unknown type"
}

// entry packs the entry name of d as full in the stream.
func (p *packer) entry(d dir, name, full string, depth int) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	st, err := d.lstat(name)
	if errors.Is(err, unix.ENOENT) {
		return p.skip(full, "it vanished")
	}
	if err != nil {
		return explain("reading", full, err)
	}
	if why := unsupported(st); why != "" {
		return p.skip(full, "it is "+why)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		sub, err := d.sub(name)
		if err != nil {
			return explain("reading", full, err)
		}
		defer sub.close()
		return p.directory(sub, full, depth)
	case unix.S_IFLNK:
		target, err := d.readlink(name)
		if err != nil {
			return explain("reading", full, err)
		}
		h := p.header(full, tar.TypeSymlink, st)
		h.Linkname = target
		return p.write(h)
	}
	return p.file(d, name, full)
}

// directory packs an open directory and everything below it.
func (p *packer) directory(d dir, full string, depth int) error {
	if depth > maxDepth {
		return fault.New(fault.Unsupported, "%s lies too deep", quoted(full))
	}
	var st unix.Stat_t
	if err := unix.Fstat(d.fd(), &st); err != nil {
		return explain("reading", full, err)
	}
	if err := p.write(p.header(full+"/", tar.TypeDir, st)); err != nil {
		return err
	}
	names, err := d.names(p.meter.limits.MaxEntries - p.meter.entries)
	if err != nil {
		return explain("reading", full, err)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := p.entry(d, name, full+"/"+name, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// file packs a regular file. It opens it without waiting, because a pipe may have replaced it.
func (p *packer) file(d dir, name, full string) error {
	f, err := d.openAt(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, unix.ENOENT) {
		return p.skip(full, "it vanished")
	}
	if err != nil {
		return explain("reading", full, err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return explain("reading", full, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return p.skip(full, "it changed into something else")
	}
	h := p.header(full, tar.TypeReg, st)
	if st.Nlink > 1 {
		id := inode{uint64(st.Dev), st.Ino}
		if first, ok := p.links[id]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return p.write(h)
		}
		if len(p.links) < maxLinks {
			p.links[id] = full
		}
	}
	h.Size = st.Size
	if err := p.write(h); err != nil {
		return err
	}
	return p.content(f, full, st.Size)
}

// content writes exactly size bytes. It fills a file that has shrunk with zeros and cuts one that
// has grown.
func (p *packer) content(r io.Reader, full string, size int64) error {
	n, err := io.CopyBuffer(struct{ io.Writer }{p.tw}, io.LimitReader(stopReader{p.ctx, r}, size), p.buf)
	if err != nil {
		p.broken = explain("copying", full, err)
		return p.broken
	}
	if n == size {
		return nil
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{p.tw}, io.LimitReader(stopReader{p.ctx, zeros{}}, size-n), p.buf); err != nil {
		p.broken = explain("copying", full, err)
		return p.broken
	}
	return p.skip(full, fmt.Sprintf("its last %d bytes vanished while it was read", size-n))
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func (p *packer) header(full string, kind byte, st unix.Stat_t) *tar.Header {
	h := &tar.Header{
		Format: tar.FormatPAX, Typeflag: kind, Name: full,
		Mode:    int64(st.Mode & 0o7777),
		ModTime: time.Unix(st.Mtim.Unix()),
	}
	if p.opts.Owner {
		h.Uid, h.Gid = int(st.Uid), int(st.Gid)
	}
	return h
}

func (p *packer) write(h *tar.Header) error {
	if len(h.Name) > maxName {
		return fault.New(fault.Unsupported, "%s lies too deep", quoted(h.Name))
	}
	if err := p.meter.add(h.Size); err != nil {
		return explain("copying", h.Name, err)
	}
	if err := p.tw.WriteHeader(h); err != nil {
		return explain("copying", h.Name, err)
	}
	return nil
}

// skip reports at both ends that an entry is left out.
func (p *packer) skip(full, why string) error {
	if p.opts.Note != nil {
		p.opts.Note(full, why)
	}
	return writeGlobal(p.tw, map[string]string{recordSkipped: report.Text(full) + "\t" + report.Text(why)})
}
