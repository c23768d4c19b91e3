package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// Format says what an import is. Its values are those of model.Image.Source.
type Format string

// The formats.
const (
	FormatAuto    Format = ""               // by looking at it
	FormatDocker  Format = "docker-archive" // what docker save and podman save write
	FormatOCI     Format = "oci-layout"     // an OCI image layout, as a folder or in a tarball
	FormatTar     Format = "rootfs-tar"     // a tarball of a root filesystem
	FormatDir     Format = "directory"      // a folder with a root filesystem
	FormatExt4    Format = "ext4"           // an ext4 file system in a file
	understood           = "a docker-archive or OCI layout tarball, an OCI layout folder, a rootfs tarball (plain, gzip, zstd, xz, bzip2), a folder with a root filesystem, an ext4 file system"
	sniffLen             = 4096
	ext4MagicAt          = 1024 + 0x38 // s_magic (Linux, Documentation/filesystems/ext4/super.rst)
	tarMagicAt           = 257         // magic (POSIX.1-2017, pax, "ustar Interchange Format")
	tarMagic             = "ustar"
	compressedMin        = 6
)

// ImportOptions says how to import.
type ImportOptions struct {
	Name   string // what to call the image; by default what the archive says, else the file's name
	Format Format
	Select string // which of the images in an archive that holds several, by its name there
	Init   string // the path of its init; by default looked for, but for ext4, which the host does not read
}

// Import makes an image of a local file or folder. What is already here under the same id is not made again. What is no image of
// a known format is fault.Invalid, and the error lists the formats.
func (s *Store) Import(ctx context.Context, path string, opts ImportOptions, report step.Reporter) (model.Image, error) {
	im := &importer{store: s, path: path, opts: opts, report: report}
	if opts.Name != "" {
		ref, err := Parse(opts.Name)
		if err != nil {
			return model.Image{}, err
		}
		im.name = ref.Name
	}
	img, err := im.run(ctx)
	if err != nil {
		return model.Image{}, fmt.Errorf("importing %s: %w", path, disk.NoSpace(err, s.dir))
	}
	return img, nil
}

// importer is one import.
type importer struct {
	store  *Store
	path   string
	name   string // the full name that was asked for, or ""
	opts   ImportOptions
	report step.Reporter
}

func (im *importer) run(ctx context.Context) (_ model.Image, err error) {
	info, err := os.Stat(im.path)
	if errors.Is(err, fs.ErrNotExist) {
		return model.Image{}, fault.New(fault.NotFound, "%w", err)
	}
	if err != nil {
		return model.Image{}, err
	}
	b, err := im.store.newBench(ctx, im.store.dir)
	if err != nil {
		return model.Image{}, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if info.IsDir() {
		return im.runDir(ctx, b)
	}
	if !info.Mode().IsRegular() {
		return model.Image{}, invalid("it is neither a file nor a folder")
	}
	f, err := os.Open(im.path)
	if err != nil {
		return model.Image{}, err
	}
	defer f.Close()
	return im.runFile(ctx, b, f)
}

func (im *importer) runDir(ctx context.Context, b *bench) (model.Image, error) {
	format := im.opts.Format
	if format == FormatAuto {
		format = FormatDir
		if _, err := os.Lstat(filepath.Join(im.path, ociLayoutFile)); err == nil {
			format = FormatOCI
		}
	}
	switch format {
	case FormatDir:
		return im.fromStream(ctx, b, FormatDir, func(ctx context.Context) (io.ReadCloser, error) {
			return tarFolder(ctx, im.path), nil
		})
	case FormatOCI:
		root, err := os.OpenRoot(im.path)
		if err != nil {
			return model.Image{}, err
		}
		defer root.Close()
		return im.fromArchive(ctx, b, folderFiles{root}, FormatOCI)
	}
	return model.Image{}, invalid("a folder is no %s", format)
}

func (im *importer) runFile(ctx context.Context, b *bench, f *os.File) (model.Image, error) {
	format, plain, err := im.look(ctx, b, f)
	if err != nil {
		return model.Image{}, err
	}
	switch format {
	case FormatExt4:
		return im.fromExt4(ctx, b)
	case FormatDocker, FormatOCI:
		if plain != f {
			defer plain.Close()
		}
		files, err := indexArchive(ctx, plain, im.store.opts.Limits)
		if err != nil {
			return model.Image{}, err
		}
		return im.fromArchive(ctx, b, files, format)
	}
	return im.fromStream(ctx, b, FormatTar, func(ctx context.Context) (io.ReadCloser, error) {
		return decompress(ctx, io.NewSectionReader(f, 0, 1<<62))
	})
}

// look finds out what a file is. For an image archive it also returns the plain archive: the file itself, or what was decompressed from it
// to the bench, because layers are read from their places in it.
func (im *importer) look(ctx context.Context, b *bench, f *os.File) (Format, *os.File, error) {
	head := make([]byte, sniffLen)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return "", nil, err
	}
	if head = head[:n]; isExt4(head) {
		return im.agree(FormatExt4, f)
	}
	r, err := decompress(ctx, io.NewSectionReader(f, 0, 1<<62))
	if err != nil {
		return "", nil, notUnderstood(err)
	}
	defer r.Close()
	br := bufio.NewReaderSize(r, 64<<10)
	first, err := br.Peek(512)
	if err != nil || !isTar(first) {
		return "", nil, notUnderstood(err)
	}
	isPlain := bytes.Equal(first, head[:min(len(head), len(first))])
	format := im.opts.Format
	if format == FormatAuto {
		if format, err = im.sniffArchive(ctx, br); err != nil {
			return "", nil, err
		}
	}
	if format == FormatTar || isPlain {
		return im.agree(format, f)
	}
	plain, err := im.spool(ctx, b, f)
	return format, plain, err
}

// agree checks what was found against what was asked for.
func (im *importer) agree(found Format, f *os.File) (Format, *os.File, error) {
	asked := im.opts.Format
	if asked != FormatAuto && asked != found {
		return "", nil, invalid("it looks like %s, not %s", found, asked)
	}
	return found, f, nil
}

func isExt4(head []byte) bool {
	return len(head) >= ext4MagicAt+2 && head[ext4MagicAt] == 0x53 && head[ext4MagicAt+1] == 0xef
}

// isTar tells whether a block is a tar header. Archives of before 1988 have no magic and are not understood.
func isTar(block []byte) bool {
	return len(block) >= 512 && bytes.HasPrefix(block[tarMagicAt:], []byte(tarMagic))
}

func notUnderstood(err error) error {
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	if err == nil || err == io.EOF {
		return invalid("it is not understood. These are: %s", understood)
	}
	return invalid("it is not understood (%w). These are: %s", err, understood)
}

// spool decompresses f to the bench.
func (im *importer) spool(ctx context.Context, b *bench, f *os.File) (_ *os.File, err error) {
	end := im.report.Track("decompress", filepath.Base(im.path))
	defer func() { end(err) }()
	r, err := decompress(ctx, io.NewSectionReader(f, 0, 1<<62))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	out, err := os.OpenFile(b.path("archive.tar"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	// It must not become part of the image's folder; its blocks live on until it is closed.
	if err := os.Remove(out.Name()); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	limit := im.store.opts.Limits.Size
	left := &budget{left: int64(limit), limit: limit}
	count := newProgress(im.report, "decompress", 0)
	if _, err := io.Copy(io.MultiWriter(out, count), left.reader(ctx, r)); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return out, nil
}

// fromStream converts a root filesystem's archive. If it takes back what it said, it is read again, twice. open may be called any number of
// times.
func (im *importer) fromStream(ctx context.Context, b *bench, source Format, open func(context.Context) (io.ReadCloser, error)) (_ model.Image, err error) {
	out, err := os.OpenFile(b.path(rootfsFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return model.Image{}, err
	}
	defer out.Close()
	end := im.report.Track("convert", filepath.Base(im.path)+" to ext4")
	defer func() { end(err) }()
	c := &conversion{limits: im.store.opts.Limits, out: out, report: im.report}
	r, err := open(ctx)
	if err != nil {
		return model.Image{}, notUnderstood(err)
	}
	defer r.Close()
	t, sum, err := c.stream(ctx, r)
	if errors.Is(err, errNotStreamable) {
		if err := out.Truncate(0); err != nil {
			return model.Image{}, err
		}
		t, sum, err = c.again(ctx, layer{label: filepath.Base(im.path), open: open})
	}
	if err != nil {
		return model.Image{}, err
	}
	return im.install(ctx, b, record{Image: model.Image{ID: sum, Source: string(source), Init: t.init()}}, "")
}

// again converts a single archive the other way.
func (c *conversion) again(ctx context.Context, l layer) (*tree, string, error) {
	var sum string
	l.sum = &sum
	t, err := c.layers(ctx, []layer{l})
	return t, sum, err
}

// install finishes an import. inside is the name that the archive has for the image, if any.
func (im *importer) install(ctx context.Context, b *bench, r record, inside string) (model.Image, error) {
	if im.opts.Init != "" {
		r.Image.Init = im.opts.Init
	}
	r.Image.Created = time.Now().UTC()
	return im.store.install(ctx, b, r, im.nameFor(inside))
}

func (im *importer) nameFor(inside string) string {
	if im.name != "" {
		return im.name
	}
	for _, name := range []string{inside, nameOf(im.path)} {
		if ref, err := Parse(name); err == nil {
			return ref.Name
		}
	}
	return ""
}
