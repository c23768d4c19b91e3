package image

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"banger/internal/fault"
	"banger/internal/step"
)

// layer is one of the archives of an image.
type layer struct {
	label string // for messages
	// diffID is the sha256, in hex, of the uncompressed archive. It is "" if unknown.
	diffID string
	sum    *string // receives the sha256 if it is unknown; may be nil
	// open returns the uncompressed archive. It may be called again.
	open func(context.Context) (io.ReadCloser, error)
}

// conversion makes one ext4 file from layers.
type conversion struct {
	limits Limits
	out    *os.File
	report step.Reporter
	skip   func(path string) bool // reports which absolute paths to leave out; may be nil

	whiteouts bool // names with .wh. hide files of lower layers
}

// errNotStreamable reports that an archive cannot be converted in one pass.
var errNotStreamable = errors.New("a later entry replaces an earlier one")

// layers merges image layers into one file system. It reads them twice: first the headers, which
// give the final tree, and then the contents of that tree's files. So it never writes a file that a
// later layer removes. The first pass checks the digests.
func (c *conversion) layers(ctx context.Context, layers []layer) (*tree, error) {
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

func (c *conversion) index(ctx context.Context, layers []layer) (_ *tree, err error) {
	t := newTree(c.limits)
	b := &budget{left: int64(c.limits.Size), limit: c.limits.Size}
	end := c.report.Track("index", "what is in the layers")
	defer func() { end(err) }()
	for i, l := range layers {
		sum, err := c.indexLayer(ctx, t, l, b, i+1)
		if err != nil {
			return nil, fmt.Errorf("reading layer %s: %w", l.label, err)
		}
		if l.sum != nil {
			*l.sum = sum
		}
		if l.diffID != "" && sum != l.diffID {
			return nil, fault.New(fault.Invalid, "layer %s is not the one that the image's configuration names: its digest is sha256:%s, not sha256:%s", l.label, sum, l.diffID)
		}
	}
	return t, nil
}

func (c *conversion) indexLayer(ctx context.Context, t *tree, l layer, b *budget, number int) (string, error) {
	r, err := l.open(ctx)
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
			return "", badTar(err)
		}
		if _, _, err := t.add(hdr, place{number, i}, c.whiteouts); err != nil {
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
func (c *conversion) copy(ctx context.Context, w tarWriter, inv *inventory, layers []layer) (err error) {
	end := c.report.Track("convert", "layers to ext4")
	defer func() { end(err) }()
	for _, n := range inv.first {
		if err := w.inode(n, nil); err != nil {
			return err
		}
	}
	done := newProgress(c.report, "convert", inv.size)
	for _, number := range inv.layers() {
		l := layers[number-1]
		if err := c.copyLayer(ctx, w, inv.contents[number], l, done); err != nil {
			return fmt.Errorf("reading layer %s again: %w", l.label, err)
		}
	}
	for _, l := range inv.links {
		if err := w.link(l); err != nil {
			return err
		}
	}
	return nil
}

func (c *conversion) copyLayer(ctx context.Context, w tarWriter, wanted map[int]*inode, l layer, done *progress) error {
	r, err := l.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	// The first pass checked the limits.
	b := &budget{left: int64(c.limits.Size), limit: c.limits.Size}
	tr := tar.NewReader(b.reader(ctx, r))
	for i, left := 0, len(wanted); left > 0; i++ {
		hdr, err := tr.Next()
		if err != nil {
			return badTar(err)
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
		done.add(n.size)
		left--
	}
	return nil
}

// stream converts one uncompressed archive in one pass and returns its sha256. If the archive
// replaces an earlier entry, it returns errNotStreamable, and layers works. Another goroutine may
// close r to end a Read.
func (c *conversion) stream(ctx context.Context, r io.ReadCloser) (t *tree, sum string, err error) {
	t = newTree(c.limits)
	t.skip = c.skip
	b := &budget{left: int64(c.limits.Size), limit: c.limits.Size}
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

func (c *conversion) streamEntries(ctx context.Context, w tarWriter, t *tree, r io.Reader) error {
	tr := tar.NewReader(r)
	done := newProgress(c.report, "convert", 0)
	for i := 0; ; i++ {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return badTar(err)
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
		done.add(n.size)
	}
	if err := t.endLayer(1); err != nil {
		return err
	}
	return c.finishStream(w, t)
}

// finishStream writes what follows from the whole archive: hard links and missing mount points.
func (c *conversion) finishStream(w tarWriter, t *tree) error {
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

func writeMade(w tarWriter, t *tree) error {
	for _, n := range t.takeMade() {
		if err := w.inode(n, nil); err != nil {
			return err
		}
	}
	return nil
}

// write runs the ext4 writer on the output of fill. The first of the two to fail ends the other.
func (c *conversion) write(ctx context.Context, fill func(tarWriter) error) error {
	pr, pw := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := writeExt4(c.out, pr, c.limits.Size)
		pr.CloseWithError(cmpErr(err, io.ErrClosedPipe))
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
	return cmpErr(werr, err)
}

// cmpErr returns the first non-nil error.
func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func badTar(err error) error {
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
			err = badTar(err)
		}
		return n, err
	})
}
