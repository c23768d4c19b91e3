package regular

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
)

// TestIrregular opens what is no regular file, for reading and for writing. Nothing waits.
func TestIrregular(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	l, err := net.Listen("unix", at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = errors.Join(syscall.Mkfifo(at("fifo"), 0o600), os.Mkdir(at("directory"), 0o700), os.Symlink("fifo", at("link")),
		os.Symlink("/dev/zero", at("device")))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fifo", "directory", "socket", "link", "device"} {
		for how, open := range map[string]func() (*os.File, error){
			"read":    func() (*os.File, error) { return Open(at(name)) },
			"write":   func() (*os.File, error) { return OpenFile(at(name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600) },
			"both":    func() (*os.File, error) { return OpenFile(at(name), os.O_RDWR, 0) },
			"at once": func() (*os.File, error) { _, err := Read(at(name), 10); return nil, err },
			"replace": func() (*os.File, error) { return nil, Write(at(name), nil, 0o600) },
		} {
			done := make(chan error, 1)
			go func() { _, err := open(); done <- err }()
			select {
			case err := <-done:
				if fault.KindOf(err) != fault.Damaged || !strings.Contains(err.Error(), at(name)) {
					t.Errorf("%s, %s: %v", name, how, err)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%s, %s: the open waits", name, how)
			}
		}
	}
}

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if _, err := Read(path, 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	f, err := OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("0123456789"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if data, err := Read(path, 10); err != nil || string(data) != "0123456789" {
		t.Errorf("the file reads %q, %v", data, err)
	}
	if _, err := Read(path, 9); fault.KindOf(err) != fault.Damaged {
		t.Errorf("a file that is too large: %v", err)
	}
	if err := Write(path, []byte("new"), 0o600); err != nil {
		t.Error(err)
	}
	if data, err := Read(path, 10); err != nil || string(data) != "new" {
		t.Errorf("the file that was replaced reads %q, %v", data, err)
	}
}
