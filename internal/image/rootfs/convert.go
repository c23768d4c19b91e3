package rootfs

import (
	"archive/tar"
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/step"
)

// Layer is one of the archives of an image.
type Layer struct {
	Label string // for messages
	// DiffID is the sha256, in hex, of the uncompressed archive. It is "" if unknown.
	DiffID string
	sum    *string // receives the sha256 if it is unknown; may be nil
	// Open returns the uncompressed archive. It may be called again.
	Open func(context.Context) (io.ReadCloser, error)
}

// Conversion makes one ext4 file from layers.
type Conversion struct {
	Limits Limits
	Out    *os.File     // empty
	Room   func() error // asked again and again; see disk.Room
	Report step.Reporter
	Skip   func(path string) bool // reports which absolute paths to leave out; may be nil

	Whiteouts bool // names with .wh. hide files of lower layers
}

// errNotStreamable reports that an archive cannot be converted in one pass.
var errNotStreamable = errors.New("a later entry replaces an earlier one")

// Layers merges image layers into one file system. It reads them twice: first the headers, which
// give the final tree, and then the contents of that tree's files. So it never writes a file that a
// later layer removes. The first pass checks the digests.
func (c *Conversion) Layers(ctx context.Context, layers []Layer) (*Tree, error) {
	t, err := c.index(ctx, layers)
	if err != nil {
		return nil, err
	}
	if _, err := t.addMountPoints(len(layers) + 1); err != nil {
		return nil, err
	}
	inv, err := t.take()
	if err != nil {
		return nil, err
	}
	return t, c.write(ctx, func(w tarWriter) error { return c.copy(ctx, w, inv, layers) })
}

func (c *Conversion) index(ctx context.Context, layers []Layer) (_ *Tree, err error) {
	t := newTree(c.Limits)
	b := &budget{left: int64(c.Limits.Size), limit: c.Limits.Size}
	end := c.Report.Track("index", "what is in the layers")
	defer func() { end(err) }()
	for i, l := range layers {
		sum, err := c.indexLayer(ctx, t, l, b, i+1)
		if err != nil {
			return nil, fmt.Errorf("reading layer %s: %w", l.Label, err)
		}
		if l.sum != nil {
			*l.sum = sum
		}
		if l.DiffID != "" && sum != l.DiffID {
			return nil, fault.New(fault.Invalid, "layer %s is not the one that the image's configuration names: its digest is sha256:%s, not sha256:%s", l.Label, sum, l.DiffID)
		}
	}
	return t, nil
}

func (c *Conversion) indexLayer(ctx context.Context, t *Tree, l Layer, b *budget, number int) (string, error) {
	r, err := l.Open(ctx)
	if err != nil {
		return "", err
	}
	defer r.Close()
	h := newHasher(b.reader(ctx, r))
	defer h.stop(nil)
	tr := tar.NewReader(h)
	for i := 0; ; i++ {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", BadTar(err)
		}
		if _, _, err := t.add(hdr, place{number, i}, c.Whiteouts); err != nil {
			return "", err
		}
		t.takeMade()
	}
	if err := t.endLayer(number); err != nil {
		return "", err
	}
	return h.sum()
}

// copy writes an inventory: directories and other files without content, then contents in the order
// of the layers, then links.
func (c *Conversion) copy(ctx context.Context, w tarWriter, inv *inventory, layers []Layer) (err error) {
	end := c.Report.Track("convert", "layers to ext4")
	defer func() { end(err) }()
	for _, n := range inv.first {
		if err := w.inode(n, nil); err != nil {
			return err
		}
	}
	done := NewProgress(c.Report, "convert", inv.size)
	for _, number := range inv.layers() {
		l := layers[number-1]
		if err := c.copyLayer(ctx, w, inv.contents[number], l, done); err != nil {
			return fmt.Errorf("reading layer %s again: %w", l.Label, err)
		}
	}
	for _, l := range inv.links {
		if err := w.link(l); err != nil {
			return err
		}
	}
	return nil
}

func (c *Conversion) copyLayer(ctx context.Context, w tarWriter, wanted map[int]*inode, l Layer, done *Progress) error {
	r, err := l.Open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	// The first pass checked the limits.
	b := &budget{left: int64(c.Limits.Size), limit: c.Limits.Size}
	tr := tar.NewReader(b.reader(ctx, r))
	for i, left := 0, len(wanted); left > 0; i++ {
		hdr, err := tr.Next()
		if err != nil {
			return BadTar(err)
		}
		n := wanted[i]
		if n == nil {
			continue
		}
		if hdr.Size != n.size {
			return errors.New("it changed while it was read")
		}
		if err := w.inode(n, contentReader(ctx, tr)); err != nil {
			return err
		}
		done.Add(n.size)
		left--
	}
	return nil
}

// Stream converts one uncompressed archive in one pass and returns its sha256. If the archive
// replaces an earlier entry, it fails, and Archive works. It may close r early.
func (c *Conversion) Stream(ctx context.Context, r io.ReadCloser) (t *Tree, sum string, err error) {
	t = newTree(c.Limits)
	t.skip = c.Skip
	b := &budget{left: int64(c.Limits.Size), limit: c.Limits.Size}
	h := newHasher(b.reader(ctx, r))
	defer h.stop(func() { r.Close() })
	err = c.write(ctx, func(w tarWriter) error {
		if err := c.streamEntries(ctx, w, t, h); err != nil {
			return err
		}
		sum, err = h.sum()
		return err
	})
	return t, sum, err
}

func (c *Conversion) streamEntries(ctx context.Context, w tarWriter, t *Tree, r io.Reader) error {
	tr := tar.NewReader(r)
	done := NewProgress(c.Report, "convert", 0)
	for i := 0; ; i++ {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return BadTar(err)
		}
		n, replaced, err := t.add(hdr, place{1, i}, false)
		if err != nil {
			return err
		}
		if replaced {
			return errNotStreamable
		}
		if err := writeMade(w, t); err != nil {
			return err
		}
		if n == nil {
			continue
		}
		if err := w.inode(n, contentReader(ctx, tr)); err != nil {
			return err
		}
		done.Add(n.size)
	}
	if err := t.endLayer(1); err != nil {
		return err
	}
	return c.finishStream(w, t)
}

// finishStream writes what follows from the whole archive: hard links and missing mount points.
func (c *Conversion) finishStream(w tarWriter, t *Tree) error {
	replaced, err := t.addMountPoints(2)
	if err != nil {
		return err
	}
	if replaced {
		return errNotStreamable
	}
	if err := writeMade(w, t); err != nil {
		return err
	}
	inv := &inventory{contents: map[int]map[int]*inode{}, written: true}
	if err := inv.add(t.root); err != nil {
		return err
	}
	for _, l := range inv.links {
		if err := w.link(l); err != nil {
			return err
		}
	}
	return nil
}

func writeMade(w tarWriter, t *Tree) error {
	for _, n := range t.takeMade() {
		if err := w.inode(n, nil); err != nil {
			return err
		}
	}
	return nil
}

// Archive converts one uncompressed archive and returns its sha256. If one pass is not enough, it
// reads the archive twice more. open may be called several times.
func (c *Conversion) Archive(
	ctx context.Context, label string, open func(context.Context) (io.ReadCloser, error),
) (*Tree, string, error) {
	r, err := open(ctx)
	if err != nil {
		return nil, "", err
	}
	defer r.Close()
	t, sum, err := c.Stream(ctx, r)
	if !errors.Is(err, errNotStreamable) {
		return t, sum, err
	}
	if err := c.Out.Truncate(0); err != nil {
		return nil, "", err
	}
	t, err = c.Layers(ctx, []Layer{{Label: label, sum: &sum, Open: open}})
	return t, sum, err
}

// write runs the ext4 writer on the output of fill. The first of the two to fail ends the other.
func (c *Conversion) write(ctx context.Context, fill func(tarWriter) error) error {
	pr, pw := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := writeExt4(c.Out, pr, c.Limits.Size, disk.NewRoom(c.Room))
		pr.CloseWithError(cmp.Or(err, io.ErrClosedPipe))
		written <- err
	}()
	stop := context.AfterFunc(ctx, func() { pw.CloseWithError(ctx.Err()) })
	defer stop()
	buf := bufio.NewWriterSize(pw, 256<<10)
	w := tar.NewWriter(buf)
	err := fill(tarWriter{w})
	if err == nil {
		err = errors.Join(w.Close(), buf.Flush())
	}
	pw.CloseWithError(err) // nil means a normal end
	werr := <-written
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && !errors.Is(err, io.ErrClosedPipe):
		return err
	}
	return cmp.Or(werr, err)
}

// BadTar blames the input for an error of reading a tar archive.
func BadTar(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrFieldTooLong) {
		return fault.New(fault.Invalid, "the archive is damaged or cut off: %w", err)
	}
	if err == io.EOF {
		return invalid("the archive ends early")
	}
	return err
}

func contentReader(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		n, err := r.Read(p)
		if err != nil && err != io.EOF {
			err = BadTar(err)
		}
		return n, err
	})
}
