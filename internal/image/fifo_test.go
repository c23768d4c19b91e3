package image

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
)

// TestLayoutWithAFIFO has a FIFO among the files of an image. Nobody waits for its other end.
func TestLayoutWithAFIFO(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "index.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	done := make(chan error, 1)
	go func() { _, err := directoryFiles{root}.open("index.json"); done <- err }()
	select {
	case err := <-done:
		if fault.KindOf(err) != fault.Invalid {
			t.Errorf("a FIFO is not refused: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the open waits")
	}
}
