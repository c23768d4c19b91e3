package transfer

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/guest/archive"
)

// TestUmask copies a file that everybody may write to out of a guest, to a directory and to
// standard output. The umask of this process decides about the copy.
func TestUmask(t *testing.T) {
	src := filepath.Join(t.TempDir(), "tool")
	if err := os.WriteFile(src, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(src, 0o777|fs.ModeSetuid|fs.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer
	if err := archive.Pack(t.Context(), &stream, src, archive.PackOptions{Owner: true}); err != nil {
		t.Fatal(err)
	}
	defer unix.Umask(unix.Umask(0o027))

	dst := t.TempDir()
	var c Copy
	if err := c.Receive(t.Context(), bytes.NewReader(stream.Bytes()), "/usr/bin/tool", dst); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(filepath.Join(dst, "tool"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o750 {
		t.Errorf("the copy in a directory has mode %v, want 0750", info.Mode())
	}

	var out bytes.Buffer
	c.Out = &out
	if err := c.Receive(t.Context(), bytes.NewReader(stream.Bytes()), "/usr/bin/tool", "-"); err != nil {
		t.Fatal(err)
	}
	tr := tar.NewReader(&out)
	h, err := tr.Next()
	if err != nil {
		t.Fatal(err)
	}
	if h.Mode != 0o750 {
		t.Errorf("the copy on standard output has mode %o, want 0750", h.Mode)
	}
	if _, err := tr.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the file comes %v, want the end", err)
	}
}
