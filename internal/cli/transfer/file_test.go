package transfer

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"banger/internal/fault"
)

// TestWriteWhole replaces a file through a symbolic link. Only the owner may read the new file.
func TestWriteWhole(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", link); err != nil {
		t.Fatal(err)
	}
	if n, err := WriteWhole(link, strings.NewReader("new and longer")); n != 14 || err != nil {
		t.Fatalf("writing 14 bytes reports %d, %v", n, err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "new and longer" {
		t.Errorf("the file behind the link holds %q, %v", data, err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("the new file's mode is %v, want a file for its owner only", info.Mode())
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("leftovers beside the file: %v, %v", entries, err)
	}
}

// TestExportCutOff ends an export without a reason, as when the daemon dies. No file may be left.
func TestExportCutOff(t *testing.T) {
	dir := t.TempDir()
	stream := exported{t.Context(), io.MultiReader(strings.NewReader("half"), iotest.ErrReader(io.ErrUnexpectedEOF))}
	_, err := WriteWhole(filepath.Join(dir, "night.banger"), stream)
	if fault.KindOf(err) != fault.Unavailable || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the error is %v of kind %s, want an unexpected end of kind unavailable", err, fault.KindOf(err))
	}
	if hint := fault.HintOf(err); !strings.Contains(hint, "daemon logs") {
		t.Errorf("the hint %q does not name the daemon's log", hint)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("the incomplete file is left: %v, %v", entries, err)
	}
}
