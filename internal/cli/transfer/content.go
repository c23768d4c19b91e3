// Package transfer moves files between this host and the daemon: copies into and out of a guest,
// what an import sends, and what an export writes.
//
// It knows no client. A command opens the stream to the daemon; this package fills, reads and
// counts it. Files that it writes appear under their names when they are complete.
package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/guest/archive"
	"banger/internal/step"
)

// Content is what an import sends to the daemon. The CLI opens it, so an import reads what its
// user may read.
type Content struct {
	io.ReadCloser
	File      string // what errors call it: its absolute path, "" for standard input
	Size      int64  // bytes; 0 if unknown
	Sparse    bool   // it is in the form of api.PackSparse
	Directory bool   // it is a tar made of a directory with a root file system
}

// Read marks an error of reading as the user's to correct, and not as a lost daemon.
func (c *Content) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = fault.New(fault.KindOf(fileFault(err)), "%w", err).WithHint("%s", fault.HintOf(err))
	}
	return n, err
}

// Counted returns a reader of the content that reports how much has been sent.
func (c *Content) Counted(report step.Reporter) io.Reader { return Count(c, "send", c.Size, report) }

// Open opens a file, a directory as a tar, or "-" for in, which is standard input.
func Open(ctx context.Context, in io.Reader, name string) (*Content, error) {
	if name == "-" {
		if ui.Terminal(in) != nil {
			return nil, fault.New(fault.Invalid, "standard input is a terminal").WithHint("For example: docker save app | banger image import -")
		}
		return &Content{ReadCloser: io.NopCloser(in)}, nil
	}
	abs, err := filepath.Abs(name)
	if err != nil {
		return nil, fmt.Errorf("finding %s: %w", name, err)
	}
	f, err := os.Open(abs)
	if err != nil {
		return nil, fileFault(err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !info.IsDir() {
		return &Content{ReadCloser: f, File: abs, Size: info.Size()}, nil
	}
	_, layout := os.Lstat(filepath.Join(abs, "oci-layout")) // OCI image-spec, image-layout.md
	return &Content{ReadCloser: archive.PackRoot(ctx, abs), File: abs, Directory: layout != nil}, f.Close()
}

// SkipHoles leaves out the holes of a file: an ext4 file has many, and sending them takes seconds.
func (c *Content) SkipHoles() {
	f, ok := c.ReadCloser.(*os.File)
	if !ok {
		return
	}
	info, err := f.Stat()
	st, known := info.Sys().(*syscall.Stat_t)
	if err != nil || !known || !info.Mode().IsRegular() || st.Blocks*512 >= info.Size() {
		return
	}
	c.ReadCloser, c.Sparse, c.Size = both{api.PackSparse(f, info.Size()), f}, true, st.Blocks*512
}

// both closes a reader and the file below it.
type both struct {
	io.ReadCloser
	file io.Closer
}

func (b both) Close() error { return errors.Join(b.ReadCloser.Close(), b.file.Close()) }
