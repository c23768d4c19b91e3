package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/image/rootfs"
	"banger/internal/model"
)

// Files that identify the format of an image archive.
const (
	dockerManifestFile = "manifest.json" // docker image save (Docker image specification v1.2)
	ociLayoutFile      = "oci-layout"    // OCI image-spec, image-layout.md
	ociIndexFile       = "index.json"
)

// files opens the files of an image archive or layout by name.
type files interface {
	// open returns a file from its start. A missing name is fs.ErrNotExist.
	open(name string) (io.ReadCloser, error)
}

// directoryFiles are the files of a directory. Links out of the directory do not work.
type directoryFiles struct{ root *os.Root }

func (d directoryFiles) open(name string) (io.ReadCloser, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would block
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = invalid("%q is not a file", clip(name))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// archiveFiles are the files of a plain tar archive, with their offsets. Older versions of docker
// link equal layers to each other.
type archiveFiles struct {
	f     *os.File
	parts map[string]part
}

type part struct {
	at, size int64
	target   string // of a link
}

// Bounds of the files of an image archive, which has a few per layer.
const (
	maxArchiveFiles = 10_000
	maxArchiveNames = 4 << 20 // bytes of all names and link targets
)

func (a archiveFiles) open(name string) (io.ReadCloser, error) {
	p, ok := a.parts[clean(name)]
	if ok && p.target != "" {
		p, ok = a.parts[p.target]
	}
	if !ok || p.target != "" {
		return nil, fmt.Errorf("%s: %w", clip(name), fs.ErrNotExist)
	}
	return io.NopCloser(io.NewSectionReader(a.f, p.at, p.size)), nil
}

// indexArchive finds the files of a plain tar archive.
func indexArchive(ctx context.Context, f *os.File, limits Limits) (archiveFiles, error) {
	a := archiveFiles{f, map[string]part{}}
	r := io.NewSectionReader(f, 0, 1<<62)
	tr := tar.NewReader(r) // reads headers and skips contents
	for names := 0; ; {
		if err := ctx.Err(); err != nil {
			return a, err
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			return a, nil
		}
		if err != nil {
			return a, rootfs.BadTar(err)
		}
		if len(a.parts) >= maxArchiveFiles {
			return a, rootfs.TooLarge("the number of the archive's files", maxArchiveFiles)
		}
		if names += len(hdr.Name) + len(hdr.Linkname); names > maxArchiveNames {
			return a, rootfs.TooLarge("the names of the archive's files", model.Bytes(maxArchiveNames))
		}
		name := clean(hdr.Name)
		switch hdr.Typeflag {
		case tar.TypeReg:
			at, err := r.Seek(0, io.SeekCurrent)
			if err != nil {
				return a, err
			}
			if hdr.PAXRecords["GNU.sparse.major"] != "" {
				return a, invalid("entry %q is sparse", clip(name))
			}
			a.parts[name] = part{at: at, size: hdr.Size}
		case tar.TypeSymlink:
			a.parts[name] = part{target: clean(path.Join(path.Dir(name), hdr.Linkname))}
		case tar.TypeLink:
			a.parts[name] = part{target: clean(hdr.Linkname)}
		}
	}
}

// sniffArchive distinguishes an image archive from a root filesystem by its top files.
func (im *importer) sniffArchive(ctx context.Context, r io.Reader) (Format, error) {
	tr := tar.NewReader(rootfs.Bounded(ctx, r, im.store.opts.Limits.Size))
	oci, index := false, false
	for n := 0; n < maxArchiveFiles; n++ {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", rootfs.BadTar(err)
		}
		switch name := clean(hdr.Name)[1:]; {
		case name == dockerManifestFile && hdr.Typeflag == tar.TypeReg:
			return FormatDocker, nil
		case name == ociLayoutFile:
			oci = true
		case name == ociIndexFile:
			index = true
		case name == "etc" || name == "bin" || name == "usr" || name == "etc/passwd":
			// No image archive has this at its top, so stop here.
			return FormatTar, nil
		}
	}
	if oci && index {
		return FormatOCI, nil
	}
	return FormatTar, nil
}

// archived is an image in an archive or layout.
type archived struct {
	names  []string // in the archive
	id     string   // the configuration's sha256 in hex
	digest string   // of its manifest, in a layout
	config *v1.ConfigFile
	layers []string // names of files
}

// readDocument reads a small file.
func readDocument(f files, name string) ([]byte, error) {
	r, err := f.open(name)
	if err != nil {
		return nil, missing(err)
	}
	defer r.Close()
	return readAll(r, clip(name))
}

func readJSON(f files, name string, into any) error {
	data, err := readDocument(f, name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return invalid("%s: %w", clip(name), err)
	}
	return nil
}

func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.Invalid, "the archive is not complete: %w", err)
	}
	return err
}
