package testkit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// The image and the kernel in every warm home.
const (
	Image  = "debian:bookworm"
	Kernel = "debian"
)

// NewWarmHome is NewHome with Image and Kernel in its cache. banger makes them once per machine, in
// BANGER_TEST_CACHE or, if that is unset, .cache/test. Homes share them by hard links.
func NewWarmHome(t testing.TB, bin string) *Home {
	t.Helper()
	shared, err := sharedCache(bin)
	if err != nil {
		t.Fatal(err)
	}
	h := NewHome(t, bin)
	// Use hard links on one file system, and otherwise copies with holes.
	if err := exec.Command("cp", "-al", shared, h.path("cache")).Run(); err == nil {
		return h
	}
	if err := os.RemoveAll(h.path("cache")); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", "--reflink=auto", "--sparse=always", shared, h.path("cache")).CombinedOutput(); err != nil {
		t.Fatalf("copying the shared cache: %v: %s", err, out)
	}
	return h
}

// CacheDir returns the cache directory of warm homes, for tests that need only a kernel. It may not
// exist yet.
func CacheDir() string { return filepath.Join(sharedRoot(), "cache") }

func sharedRoot() string {
	if root := os.Getenv("BANGER_TEST_CACHE"); root != "" {
		return root
	}
	return filepath.Join(SourceRoot(), ".cache", "test")
}

// sharedCache returns the cache directory of warm homes, and makes it if it is missing.
func sharedCache(bin string) (string, error) {
	return shared("cache", func(path string) error { return fillCache(bin, path) })
}

// SharedFile returns the path of a file that takes long to make. It is made once per machine.
func SharedFile(t testing.TB, name string, fill func(path string) error) string {
	t.Helper()
	path, err := shared(name, fill)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// shared returns a path in the tests' shared directory. If it is missing, fill makes it under
// another name; one test program at a time does so.
func shared(name string, fill func(path string) error) (string, error) {
	root := sharedRoot()
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(root, name)
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close() // releases the lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("locking %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	staged := filepath.Join(root, "new-"+name) // tools need the name's suffix
	if err := os.RemoveAll(staged); err != nil {
		return "", err
	}
	if err := fill(staged); err != nil {
		return "", err
	}
	return path, os.Rename(staged, path)
}

// fillCache makes the image and the kernel in a new home, and copies its cache to a path.
func fillCache(bin, cache string) error {
	dir, err := os.MkdirTemp("", "b")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	h := openHome(dir, bin)
	if err := h.makeTemp(); err != nil {
		return err
	}
	banger := func(args ...string) error {
		cmd := exec.Command(filepath.Join(bin, "banger"), args...)
		cmd.Env = h.Env
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("banger %v: %w: %s", args, err, out)
		}
		return nil
	}
	err = errors.Join(banger("image", "pull", Image), banger("kernel", "pull", Kernel), banger("daemon", "stop"))
	if err != nil {
		return err
	}
	if out, err := exec.Command("cp", "-a", "--reflink=auto", "--sparse=always", h.path("cache"), cache).CombinedOutput(); err != nil {
		return fmt.Errorf("keeping the cache: %w: %s", err, out)
	}
	// Homes share these files by hard links, but they must not share a lock.
	return errors.Join(os.RemoveAll(filepath.Join(cache, "images", "lock")), os.RemoveAll(filepath.Join(cache, "lock")))
}

// SourceRoot returns the directory of go.mod.
func SourceRoot() string {
	dir, err := os.Getwd() // a test starts in its package's directory
	for err == nil && dir != "/" {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	return "."
}
