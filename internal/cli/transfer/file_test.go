package transfer

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"

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
	if n, err := WriteWhole(t.Context(), link, strings.NewReader("new and longer")); n != 14 || err != nil {
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

// TestNamedPlaces writes to what is not a plain file. Only a link to a file is followed, and only a
// pipe is written to.
func TestNamedPlaces(t *testing.T) {
	t.Chdir(t.TempDir())
	err := errors.Join(os.Mkdir("directory", 0o755), os.Symlink("nothing", "dangling"), os.WriteFile("file", []byte("old"), 0o644),
		os.Symlink("file", "link"), unix.Mkfifo("fifo", 0o600), unix.Mknod("socket", unix.S_IFSOCK|0o600, 0))
	if err != nil {
		t.Fatal(err)
	}
	before := modes(t)
	for _, tt := range []struct {
		name       string
		whole, new fault.Kind // "": it succeeds
	}{
		{"directory", fault.Invalid, fault.Invalid},
		{"dangling", fault.WrongState, fault.WrongState},
		{"socket", fault.WrongState, fault.WrongState},
		{"link", "", ""},
		{"fifo", fault.Canceled, fault.Invalid}, // nobody reads
	} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := WriteWhole(ctx, tt.name, strings.NewReader("whole")); fault.KindOf(err) != tt.whole {
			t.Errorf("WriteWhole to %s: %v", tt.name, err)
		}
		err := WriteNew(tt.name, true, func(w io.Writer) error { _, err := io.WriteString(w, "new"); return err })
		if fault.KindOf(err) != tt.new {
			t.Errorf("WriteNew to %s: %v", tt.name, err)
		}
	}
	if after := modes(t); after != before {
		t.Errorf("there was\n%s\nand now there is\n%s", before, after)
	}
	if got, _ := os.ReadFile("file"); string(got) != "new" {
		t.Errorf("the file behind the link holds %q", got)
	}
	read := make(chan string)
	go func() {
		data, _ := os.ReadFile("fifo")
		read <- string(data)
	}()
	if n, err := WriteWhole(t.Context(), "fifo", strings.NewReader("piped")); n != 5 || err != nil {
		t.Errorf("WriteWhole to a pipe: %d, %v", n, err)
	}
	if got := <-read; got != "piped" {
		t.Errorf("the pipe's reader got %q", got)
	}
}

// modes lists the types of the files in the working directory.
func modes(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name()+" "+e.Type().String())
	}
	return strings.Join(all, "\n")
}

// TestExportCutOff ends an export without a reason, as when the daemon dies. No file may be left.
func TestExportCutOff(t *testing.T) {
	dir := t.TempDir()
	stream := exported{t.Context(), io.MultiReader(strings.NewReader("half"), iotest.ErrReader(io.ErrUnexpectedEOF))}
	_, err := WriteWhole(t.Context(), filepath.Join(dir, "night.banger"), stream)
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
