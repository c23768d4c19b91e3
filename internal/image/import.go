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
	"banger/internal/guest/archive"
	"banger/internal/image/rootfs"
	"banger/internal/model"
	"banger/internal/regular"
	"banger/internal/step"
)

// Format is what an import is. Its values are those of model.Image.Source.
type Format string

// The formats.
const (
	FormatAuto   Format = ""               // detect it
	FormatDocker Format = "docker-archive" // docker save, podman save
	FormatOCI    Format = "oci-layout"     // an OCI image layout: a directory or a tarball
	FormatTar    Format = "rootfs-tar"     // a tarball of a root filesystem
	FormatDir    Format = "directory"      // a directory with a root filesystem
	FormatExt4   Format = "ext4"           // an ext4 file system in a file
	knownFormats        = "a docker-archive or OCI layout tarball, an OCI layout directory, a rootfs tarball " +
		"(plain, gzip, zstd, xz, bzip2), a directory with a root filesystem, an ext4 file system"
	sniffLen      = 4096
	ext4MagicAt   = 1024 + 0x38 // s_magic (Linux, Documentation/filesystems/ext4/super.rst)
	tarMagicAt    = 257         // magic (POSIX.1-2017, pax, "ustar Interchange Format")
	tarMagic      = "ustar"
	compressedMin = 6
)

// ImportOptions are the options of Import.
type ImportOptions struct {
	File string // the file's name in errors, steps and the default name; its path if unset
	// Name is what the image is called, also if another image has the name. By default the archive
	// or the file's name suggests one, which takes nothing from another image.
	Name   string
	Format Format
	Select string // the image's name in an archive of several
	Dir    bool   // the file is a tar that was made of a directory for this import
	// Init is the path of its init. By default banger searches for it, except in ext4, which it
	// cannot read.
	Init string
}

// Import makes an image from a local file or directory. An image with the same id is not made
// again. A file of no known format is fault.Invalid, and the error lists the formats.
func (s *Store) Import(ctx context.Context, path string, opts ImportOptions, report step.Reporter) (model.Image, error) {
	im := &importer{store: s, path: path, file: path, opts: opts, report: report}
	if opts.File != "" {
		im.file = opts.File
	}
	if opts.Name != "" {
		ref, err := parseTag(opts.Name)
		if err != nil {
			return model.Image{}, err
		}
		im.name = ref.Name
	}
	img, err := im.run(ctx)
	if err != nil {
		return model.Image{}, fmt.Errorf("importing %s: %w", im.file, disk.NoSpace(err, s.dir))
	}
	return img, nil
}

// importer is one import.
type importer struct {
	store  *Store
	path   string
	file   string // path's name in errors and steps
	name   string // the full name that the caller wants, or ""
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
	b, err := im.store.locks.newStaging(ctx, im.store.dir)
	if err != nil {
		return model.Image{}, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if info.IsDir() {
		return im.runDir(ctx, b)
	}
	if !info.Mode().IsRegular() {
		return model.Image{}, invalid("it is neither a file nor a directory")
	}
	f, err := regular.Open(im.path)
	if err != nil {
		return model.Image{}, err
	}
	defer f.Close()
	return im.runFile(ctx, b, f)
}

func (im *importer) runDir(ctx context.Context, b *staging) (model.Image, error) {
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
			return archive.PackRoot(ctx, im.path), nil
		})
	case FormatOCI:
		root, err := os.OpenRoot(im.path)
		if err != nil {
			return model.Image{}, err
		}
		defer root.Close()
		return im.fromArchive(ctx, b, directoryFiles{root}, FormatOCI)
	}
	return model.Image{}, invalid("a directory is not a %s", format)
}

func (im *importer) runFile(ctx context.Context, b *staging, f *os.File) (model.Image, error) {
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
	source := FormatTar
	if im.opts.Dir {
		source = FormatDir
	}
	return im.fromStream(ctx, b, source, func(ctx context.Context) (io.ReadCloser, error) {
		return rootfs.Decompress(ctx, io.NewSectionReader(f, 0, 1<<62))
	})
}

// look detects the format of a file. For an image archive it also returns the uncompressed archive,
// because layers are read at their offsets: the file itself, or a copy in the staging directory.
func (im *importer) look(ctx context.Context, b *staging, f *os.File) (Format, *os.File, error) {
	head := make([]byte, sniffLen)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return "", nil, err
	}
	if head = head[:n]; isExt4(head) {
		return im.agree(FormatExt4, f)
	}
	r, err := rootfs.Decompress(ctx, io.NewSectionReader(f, 0, 1<<62))
	if err != nil {
		return "", nil, unknownFormat(err)
	}
	defer r.Close()
	br := bufio.NewReaderSize(r, 64<<10)
	first, err := br.Peek(512)
	if err != nil || !isTar(first) {
		return "", nil, unknownFormat(err)
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

// agree compares the detected format with the wanted one.
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

// isTar reports whether a block is a tar header. Archives from before 1988 have no magic and are
// not supported.
func isTar(block []byte) bool {
	return len(block) >= 512 && bytes.HasPrefix(block[tarMagicAt:], []byte(tarMagic))
}

func unknownFormat(err error) error {
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	if err == nil || err == io.EOF {
		return invalid("its format is not known. Known formats are: %s", knownFormats)
	}
	return invalid("its format is not known (%w). Known formats are: %s", err, knownFormats)
}

// spool decompresses f to the staging directory.
func (im *importer) spool(ctx context.Context, b *staging, f *os.File) (_ *os.File, err error) {
	end := im.report.Track("decompress", filepath.Base(im.file))
	defer func() { end(err) }()
	r, err := rootfs.Decompress(ctx, io.NewSectionReader(f, 0, 1<<62))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	out, err := os.OpenFile(b.path("archive.tar"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	// The file must not become part of the image. Its blocks exist until it is closed.
	if err := os.Remove(out.Name()); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	count := rootfs.NewProgress(im.report, "decompress", 0)
	if _, err := io.Copy(io.MultiWriter(disk.NewRoom(im.store.opts.Room), out, count), rootfs.Bounded(ctx, r, im.store.opts.Limits.Size)); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return out, nil
}

// fromStream converts the archive of a root filesystem. If one pass is not enough, it reads the
// archive twice more. open may be called several times.
func (im *importer) fromStream(
	ctx context.Context, b *staging, source Format, open func(context.Context) (io.ReadCloser, error),
) (_ model.Image, err error) {
	out, err := os.OpenFile(b.path(rootfsFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return model.Image{}, err
	}
	defer out.Close()
	end := im.report.Track("convert", filepath.Base(im.file)+" to ext4")
	defer func() { end(err) }()
	c := &rootfs.Conversion{Limits: im.store.opts.Limits, Room: im.store.opts.Room, Out: out, Report: im.report}
	t, sum, err := c.Archive(ctx, filepath.Base(im.file), func(ctx context.Context) (io.ReadCloser, error) {
		r, err := open(ctx)
		if err != nil {
			err = unknownFormat(err)
		}
		return r, err
	})
	if err != nil {
		return model.Image{}, err
	}
	return im.install(ctx, b, record{Image: model.Image{ID: sum, Source: string(source), Init: t.Init()}})
}

// install completes an import. inside are the archive's names for the image.
func (im *importer) install(ctx context.Context, b *staging, r record, inside ...string) (model.Image, error) {
	if im.opts.Init != "" {
		r.Image.Init = im.opts.Init
	}
	r.Image.Created = time.Now().UTC()
	return im.store.install(ctx, b, r, im.claim(inside...))
}

// claim returns the name that the caller wants, otherwise the first good name in the archive, or
// one made of the file's name.
func (im *importer) claim(inside ...string) claim {
	if im.name != "" {
		return claim{name: im.name, asked: true}
	}
	var c claim
	for _, suggested := range inside {
		ref, err := parseTag(suggested)
		switch {
		case suggested == "" || err == nil && ref.Name == c.name:
		case err == nil && c.name == "":
			c.name = ref.Name
		default:
			c.more = append(c.more, suggested)
		}
	}
	if ref, err := parseTag(nameOf(im.file)); err == nil && c.name == "" {
		c.name = ref.Name
	}
	return c
}
