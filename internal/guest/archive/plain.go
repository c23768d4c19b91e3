package archive

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"io"
	"path"
	"strings"
	"time"
)

// Import turns any tar into a stream of a directory's contents, for Unpack. It adds directories
// that the tar omits. It skips devices and pipes, as Pack does, and refuses names that lead out of
// the tree.
func Import(ctx context.Context, w io.Writer, r io.Reader, limits Limits) error {
	p := newPacker(ctx, w, PackOptions{Limits: limits})
	in := &importer{packer: p, made: map[string]bool{}}
	return p.end(in.all(tar.NewReader(bufio.NewReaderSize(stopReader{ctx, r}, bufSize))))
}

type importer struct {
	*packer
	made map[string]bool // directories in the stream, by their names in it; "." is the top
}

func (in *importer) all(tr *tar.Reader) error {
	if err := in.directories("."); err != nil {
		return err
	}
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return explain("reading", "the archive", streamError(err))
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := in.meter.add(h.Size); err != nil {
			return err
		}
		if err := in.entry(tr, h); err != nil {
			return err
		}
	}
}

// entry passes on one entry under its name below ".".
func (in *importer) entry(tr *tar.Reader, h *tar.Header) error {
	full, err := below(h.Name)
	if err != nil {
		return err
	}
	directory := h.Typeflag == tar.TypeDir
	if full == "." && !directory {
		return badArchive("%s is not a directory", quoted(h.Name))
	}
	if full == "." || directory && in.made[full] {
		return nil
	}
	if err := in.directories(path.Dir(full)); err != nil {
		return err
	}
	out := &tar.Header{
		Format: tar.FormatPAX, Typeflag: h.Typeflag, Name: "./" + full, Linkname: h.Linkname, Size: h.Size,
		Mode: h.Mode & 0o7777, Uid: h.Uid, Gid: h.Gid, ModTime: h.ModTime,
	}
	switch h.Typeflag {
	case tar.TypeDir:
		out.Name += "/"
		in.made[full] = true
	case tar.TypeLink:
		target, err := below(h.Linkname)
		if err != nil {
			return err
		}
		out.Linkname = "./" + target
	case tar.TypeReg, tar.TypeSymlink:
	case tar.TypeGNUSparse: // the reader fills the holes
		out.Typeflag = tar.TypeReg
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return in.skip(full, "it is a device or a pipe")
	default:
		return badArchive("%s is neither a file, a directory nor a link", quoted(h.Name))
	}
	err = copyEntry(in.tw, tr, out, in.buf)
	if err != nil {
		in.broken = err // possibly within an entry
	}
	return err
}

// directories adds the missing directories up to and including full.
func (in *importer) directories(full string) error {
	if in.made[full] {
		return nil
	}
	name := "."
	if full != "." {
		if err := in.directories(path.Dir(full)); err != nil {
			return err
		}
		name = "./" + full
	}
	if err := in.meter.add(0); err != nil {
		return err
	}
	in.made[full] = true
	h := &tar.Header{Format: tar.FormatPAX, Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: time.Now()}
	return explain("copying", quoted(full), in.tw.WriteHeader(h))
}

// below returns an archive's name in its plain relative form. An absolute name means the same as a
// relative one, as with tar(1).
func below(name string) (string, error) {
	full := path.Clean(strings.TrimLeft(name, "/"))
	if full == ".." || strings.HasPrefix(full, "../") || len(name) > maxName || strings.ContainsRune(name, 0) {
		return "", badArchive("the name %s is not a plain one", quoted(name))
	}
	return full, nil
}

// copyEntry passes on an entry and its content.
func copyEntry(tw *tar.Writer, tr *tar.Reader, h *tar.Header, buf []byte) error {
	if err := tw.WriteHeader(h); err != nil {
		return explain("copying", quoted(h.Name), err)
	}
	if h.Size == 0 {
		return nil
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{tw}, struct{ io.Reader }{tr}, buf); err != nil {
		return explain("copying", quoted(h.Name), streamError(err))
	}
	return nil
}
