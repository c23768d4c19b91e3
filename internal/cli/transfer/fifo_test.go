package transfer

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestInputFromAPipe reads inputs that a person names from a FIFO, as of a shell's <(command).
func TestInputFromAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func() (io.ReadCloser, error){
		"image":    func() (io.ReadCloser, error) { return Open(t.Context(), strings.NewReader(""), path) },
		"snapshot": func() (io.ReadCloser, error) { r, _, err := OpenSnapshot(strings.NewReader(""), path); return r, err },
	} {
		go func() {
			if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
				_, _ = f.WriteString("content")
				_ = f.Close()
			}
		}()
		r, err := open()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if data, err := io.ReadAll(r); err != nil || string(data) != "content" {
			t.Errorf("%s: the pipe reads %q, %v", name, data, err)
		}
		_ = r.Close()
	}
}
