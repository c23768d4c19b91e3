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

// The image and the kernel that are in every warm home.
const (
	Image  = "debian:bookworm"
	Kernel = "debian"
)

// NewWarmHome is NewHome with Image and Kernel in its cache. They are made once per machine, by banger itself, and shared by hard links;
// BANGER_TEST_CACHE says where, .cache/test in the source tree when it does not.
func NewWarmHome(t testing.TB, bin string) *Home {
	t.Helper()
	shared, err := sharedCache(bin)
	if err != nil {
		t.Fatal(err)
	}
	h := NewHome(t, bin)
	// Hard links when the file system is the same, else copies that keep holes.
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

// CacheDir is where the cache folder that warm homes start from is, once somebody has made it: for tests that only need a kernel.
func CacheDir() string { return filepath.Join(sharedRoot(), "cache") }

func sharedRoot() string {
	if root := os.Getenv("BANGER_TEST_CACHE"); root != "" {
		return root
	}
	return filepath.Join(SourceRoot(), ".cache", "test")
}

// sharedCache returns the cache folder that warm homes start from, making it when it is missing.
func sharedCache(bin string) (string, error) {
	return shared("cache", func(path string) error { return fillCache(bin, path) })
}

// SharedFile returns the path of a file that is dear to make, and is made once per machine.
func SharedFile(t testing.TB, name string, fill func(path string) error) string {
	t.Helper()
	path, err := shared(name, fill)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// shared returns the path of something in the tests' shared folder. When it is not there, fill makes it under another name. One test
// program at a time does so.
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
	defer lock.Close() // lets go of the lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("locking %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	staged := filepath.Join(root, "new-"+name) // with the name's suffix: tools go by it
	if err := os.RemoveAll(staged); err != nil {
		return "", err
	}
	if err := fill(staged); err != nil {
		return "", err
	}
	return path, os.Rename(staged, path)
}

// fillCache makes the image and the kernel in a home of their own and copies its cache to a path.
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
	// Homes that share it by hard links shall not share its locks.
	return os.RemoveAll(filepath.Join(cache, "images", "lock"))
}

// SourceRoot is the folder of go.mod.
func SourceRoot() string {
	dir, err := os.Getwd() // tests start in their package's folder
	for err == nil && dir != "/" {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	return "."
}
