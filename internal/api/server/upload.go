package server

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/model"
)

// Bounds of an upload.
const (
	maxImageUpload   = 64 * model.GiB   // default limit of an image
	maxKernelUpload  = 4 * model.GiB    // a distribution's kernel with modules: 0.5 GiB
	maxKernelEntries = 100_000          // a distribution's kernel has about 5,000 modules
	maxFileName      = 4096             // bytes of what a client calls its file
	uploadIdle       = 10 * time.Minute // without a byte
)

// upload is content on its way into an import: files in a directory of its own.
type upload struct {
	dir string
	w   http.ResponseWriter
	r   *http.Request
	max model.Bytes
}

// uploading wraps an operation whose body may be gigabytes, so that a client gets a refusal before
// it has sent all.
func (c *core) uploading(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex() // without it the refusal comes late
		if err := h(w, r); err != nil {
			c.fail(w, r, err)
		}
		if rc.Flush() == nil {
			letFinish(w, r)
		}
		return nil
	}
}

// newUpload makes a directory below dir for a request's content. The caller closes the upload.
func newUpload(w http.ResponseWriter, r *http.Request, dir string, limit model.Bytes) (*upload, error) {
	if r.ContentLength > int64(limit) {
		return nil, tooMuch(limit)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making a directory for the upload: %w", err)
	}
	own, err := os.MkdirTemp(dir, "")
	if err != nil {
		return nil, fmt.Errorf("making a directory for the upload: %w", err)
	}
	return &upload{dir: own, w: w, r: r, max: limit}, nil
}

// close removes what was received.
func (u *upload) close() error {
	if err := os.RemoveAll(u.dir); err != nil {
		return fmt.Errorf("removing an upload: %w", err)
	}
	return nil
}

func tooMuch(limit model.Bytes) error {
	return fault.New(fault.Invalid, "the upload is larger than %v", limit)
}

// body is the request's content, bounded in size and in idle time.
func (u *upload) body() io.Reader {
	return &idleReader{
		r: http.MaxBytesReader(nil, u.r.Body, int64(u.max)), rc: http.NewResponseController(u.w), limit: u.max,
	}
}

// idleReader gives each read a deadline.
type idleReader struct {
	r     io.Reader
	rc    *http.ResponseController
	limit model.Bytes
}

func (i *idleReader) Read(p []byte) (int, error) {
	_ = i.rc.SetReadDeadline(time.Now().Add(uploadIdle))
	n, err := i.r.Read(p)
	if err == nil {
		return n, nil
	}
	_ = i.rc.SetReadDeadline(time.Time{})
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return n, tooMuch(i.limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, fault.New(fault.Unavailable, "the upload stood still for %v", uploadIdle)
	case fault.KindOf(err) == fault.Unavailable: // there is no room
		return n, err
	case err != io.EOF:
		return n, fault.New(fault.Canceled, "the upload broke off: %w", err)
	}
	return n, err
}

// file stores the complete content in one file and returns its path.
func (u *upload) file(name string, sparse bool) (string, error) {
	file := filepath.Join(u.dir, name)
	if !sparse {
		return u.save(file, u.body())
	}
	return u.saveWith(file, func(f *os.File) error { return noSpace(api.UnpackSparse(f, u.body(), int64(u.max))) })
}

// save writes a new file, with holes where there are only zeros.
func (u *upload) save(file string, r io.Reader) (string, error) {
	return u.saveWith(file, func(f *os.File) error { return writeSparse(f, r) })
}

func (u *upload) saveWith(file string, write func(*os.File) error) (_ string, err error) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", noSpace(fmt.Errorf("storing the upload: %w", err))
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := write(f); err != nil {
		return "", err
	}
	return file, nil
}

// writeSparse copies r to the empty file f and leaves out chunks of zeros.
func writeSparse(f *os.File, r io.Reader) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	zeros := make([]byte, len(*buf))
	var at int64
	for {
		n, err := io.ReadFull(r, *buf)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		if chunk := (*buf)[:n]; !bytes.Equal(chunk, zeros[:n]) {
			if _, err := f.WriteAt(chunk, at); err != nil {
				return noSpace(fmt.Errorf("storing the upload: %w", err))
			}
		}
		at += int64(n)
		if err != nil {
			break
		}
	}
	if err := f.Truncate(at); err != nil {
		return noSpace(fmt.Errorf("storing the upload: %w", err))
	}
	return nil
}

// kernel stores a kernel: the content itself, or an archive as api.KernelImport describes it.
func (u *upload) kernel(archive bool) (KernelFiles, error) {
	if !archive {
		file, err := u.file("kernel", false)
		return KernelFiles{Kernel: file}, err
	}
	var files KernelFiles
	tr := tar.NewReader(u.body())
	left := int64(u.max) // of the files with their holes filled
	for entries := 0; ; entries++ {
		hdr, err := tr.Next()
		switch {
		case err == io.EOF && files.Kernel == "":
			return files, fault.New(fault.Invalid, "the archive holds no file named kernel")
		case err == io.EOF:
			return files, nil
		case err != nil:
			return files, badUpload(err)
		case entries >= maxKernelEntries:
			return files, fault.New(fault.Invalid, "the archive has more than %d entries", maxKernelEntries)
		}
		if hdr.Typeflag != tar.TypeReg {
			continue // directories are made as needed; links are ignored
		}
		if left -= hdr.Size; left < 0 {
			return files, tooMuch(u.max)
		}
		if err := u.kernelFile(&files, hdr.Name, tr); err != nil {
			return files, err
		}
	}
}

// kernelFile stores one file of a kernel's archive.
func (u *upload) kernelFile(files *KernelFiles, name string, r io.Reader) (err error) {
	name = strings.TrimPrefix(name, "./")
	parts := strings.Split(name, "/")
	switch {
	case name == "kernel":
		files.Kernel, err = u.save(filepath.Join(u.dir, "kernel"), r)
	case name == "config":
		files.Config, err = u.save(filepath.Join(u.dir, "config"), r)
	case len(parts) > 2 && parts[0] == "modules" && filepath.IsLocal(name) && path.Clean(name) == name:
		modules := filepath.Join(u.dir, parts[0], parts[1])
		if files.Modules != "" && files.Modules != modules {
			return fault.New(fault.Invalid, "the archive holds modules of several versions")
		}
		files.Modules = modules
		file := filepath.Join(u.dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return badUpload(err)
		}
		_, err = u.save(file, r)
	default:
		return fault.New(fault.Invalid, "the archive holds %.100q, which is not kernel, config or modules/VERSION/FILE", name)
	}
	if err != nil {
		return badUpload(err)
	}
	return nil
}

// badUpload gives an error in an archive the kind Invalid, unless it has a kind of its own.
func badUpload(err error) error {
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	return fault.New(fault.Invalid, "reading the archive: %w", err)
}

// noSpace gives an error of a full disk a kind and a hint.
func noSpace(err error) error {
	for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, full) {
			return fault.New(fault.Unavailable, "%w", err).
				WithHint("Free some space (banger image prune may help), or move BANGER_HOME to a larger file system.")
		}
	}
	return err
}

// checkFile checks what a client calls its file: it is shown in errors and progress.
func checkFile(name string) error {
	if len(name) > maxFileName || strings.ContainsFunc(name, unicode.IsControl) {
		return fault.New(fault.Invalid, "query parameter file: %.100q is not the name of a file", name)
	}
	return nil
}
