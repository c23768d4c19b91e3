package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/proto"
)

// tick is longer than a tick of the file system's clock.
const tick = 40 * time.Millisecond

// TestWrittenSince checks which files of a boot are reported.
func TestWrittenSince(t *testing.T) {
	root, other := t.TempDir(), t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("of-the-image", "x")
	write("renamed-later", "x")
	if err := os.WriteFile(filepath.Join(other, "beyond-a-link"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(tick)
	since := time.Now()
	time.Sleep(tick)
	write("app/key", "secret")
	write("empty", "")
	write("backdated", "secret")
	old := time.Unix(1, 0)
	for _, err := range []error{
		os.Chtimes(filepath.Join(root, "backdated"), old, old),
		os.Rename(filepath.Join(root, "renamed-later"), filepath.Join(root, "renamed")),
		os.Symlink(other, filepath.Join(root, "link")),
		unix.Mkfifo(filepath.Join(root, "pipe"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	w := writtenSince(since, root, filepath.Join(root, "missing"))
	var got []string
	for _, path := range w.Paths {
		name, _ := filepath.Rel(root, path)
		got = append(got, name)
	}
	slices.Sort(got)
	if want := []string{"app/key", "backdated", "link", "renamed"}; !slices.Equal(got, want) {
		t.Errorf("written are %q, want %q", got, want)
	}
	if w.More {
		t.Error("the report says that there is more")
	}
}

// TestWritesAreBounded checks that a report has a bound, and says so.
func TestWritesAreBounded(t *testing.T) {
	root := t.TempDir()
	for i := range proto.MaxWrites + 1 {
		if err := os.WriteFile(filepath.Join(root, fmt.Sprint(i)), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := writtenSince(time.Unix(0, 0), root)
	if len(w.Paths) != proto.MaxWrites || !w.More {
		t.Errorf("the report has %d files, and more: %v", len(w.Paths), w.More)
	}
}

// TestRenewed checks what fork hooks say of themselves.
func TestRenewed(t *testing.T) {
	dir := t.TempDir()
	for name, hook := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"a":          {"#!/bin/sh\n# regenerates /etc/app/key\n  # regenerates /var/lib/app/\n# regenerates etc/relative\nmake-key\n", 0o755},
		"b":          {"echo '# regenerates /etc/b'\n#regenerates /etc/c\n", 0o755},
		"not-a-hook": {"# regenerates /etc/d\n", 0o644},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(hook.text), hook.mode); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := renewed(dir), []string{"/etc/app/key", "/var/lib/app/"}; !slices.Equal(got, want) {
		t.Errorf("renewed are %q, want %q", got, want)
	}
	if got := renewed(filepath.Join(dir, "missing")); got != nil {
		t.Errorf("without hooks, renewed are %q", got)
	}
}
