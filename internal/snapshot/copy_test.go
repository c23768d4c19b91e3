package snapshot

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestHardLinks opens a snapshot and its copy, whose files are hard links, as two homes do that
// share a cache. Neither changes the other's description, and each reads the files once.
func TestHardLinks(t *testing.T) {
	parent := t.TempDir()
	one, two := filepath.Join(parent, "one"), filepath.Join(parent, "two")
	commit(t, one)
	time.Sleep(20 * time.Millisecond) // longer than a tick of the kernel's clock
	if err := os.Mkdir(two, 0o700); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(one)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append([]string{metaFile}, names(files)...) { // the description first
		if err := os.Link(filepath.Join(one, name), filepath.Join(two, name)); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	stop, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(stop, two); err == nil {
		t.Fatal("the copy is opened without reading it, so this test shows nothing")
	}
	for _, dir := range []string{two, one} {
		if _, err := Open(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
	}
	a, b := stat(t, filepath.Join(one, metaFile)), stat(t, filepath.Join(two, metaFile))
	if os.SameFile(a, b) {
		t.Error("both homes still have one description, which each of them writes")
	}
	for _, dir := range []string{one, two, one} {
		if _, err := Open(stop, dir); err != nil {
			t.Errorf("%s is read again: %v", dir, err)
		}
	}
	for _, dir := range []string{one, two} {
		left, err := os.ReadDir(dir)
		if err != nil || len(left) != len(files) {
			t.Errorf("%s holds %v, %v; want %v", dir, left, err, files)
		}
	}
}

func names(entries []os.DirEntry) []string {
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func stat(t *testing.T, path string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}
