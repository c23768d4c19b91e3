package initramfs

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/singleflight"

	"banger/internal/regular"
)

const (
	maxAgent   = 128 << 20 // bytes of the agent's binary; ours has 8 MB
	maxArchive = 1 << 30   // bytes of one archive

	// markEvery is the precision of the mark of a file's last use. Marking every use would change
	// the file's times, and with them its stamp, at every start.
	markEvery = time.Hour
)

// Cache holds archives in one directory. Each is named by the hash of its inputs and appears
// complete and synced, by a rename. Methods are safe for concurrent use. Callers that want the same
// file share the work.
type Cache struct {
	dir     string
	flights singleflight.Group

	mu   sync.Mutex
	sums map[stamp]string
}

// stamp identifies a state of a file without reading it.
type stamp struct {
	path     string
	dev, ino uint64
	size     int64
	mtime    int64 // nanoseconds
	ctime    int64 // nanoseconds; moves also when a tool restores the mtime
}

// New returns a Cache in dir, which need not exist yet.
func New(dir string) *Cache { return &Cache{dir: dir, sums: map[stamp]string{}} }

// Agent returns the path of an archive that has the agent's binary as /init. It is made once per
// build of the agent.
func (c *Cache) Agent(binary string) (string, error) {
	sum, size, err := c.sum(binary, maxAgent)
	if err != nil {
		return "", err
	}
	return c.once("agent-"+sum+".cpio", func(w io.Writer) error {
		return copyChecked(binary, sum, func(r io.Reader) error { return writeAgent(w, r, size) })
	})
}

// Combined returns the path of one file that holds the archives in order, for VMMs that take a
// single file. It ignores empty paths. It returns a single archive as it is.
func (c *Cache) Combined(archives ...string) (string, error) {
	var files, sums []string
	key := sha256.New()
	for _, a := range archives {
		if a == "" {
			continue
		}
		sum, size, err := c.sum(a, maxArchive)
		if err != nil {
			return "", err
		}
		if size%4 != 0 {
			return "", fmt.Errorf("joining %s: its %d bytes are no multiple of 4, which the kernel requires before another archive",
				a, size)
		}
		files, sums = append(files, a), append(sums, sum)
		io.WriteString(key, sum)
	}
	switch len(files) {
	case 0:
		return "", errors.New("joining archives: none given")
	case 1:
		return files[0], nil
	}
	return c.once("combined-"+hex.EncodeToString(key.Sum(nil))+".cpio", func(w io.Writer) error {
		for i, f := range files {
			err := copyChecked(f, sums[i], func(r io.Reader) error { _, err := io.Copy(w, r); return err })
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Dir returns the directory of the archives.
func (c *Cache) Dir() string { return c.dir }

// Unused returns the paths of archives that were not used for the given time, and of leftovers of
// interrupted builds as old. Uses are recorded to the hour.
func (c *Cache) Unused(unused time.Duration) ([]string, error) {
	entries, err := os.ReadDir(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing initramfs archives: %w", err)
	}
	var paths []string
	for _, e := range entries {
		info, err := e.Info()
		// A mark from a time when the clock was ahead is as old as it is far away.
		if err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()).Abs() >= unused+markEvery {
			paths = append(paths, filepath.Join(c.dir, e.Name()))
		}
	}
	return paths, nil
}

// Prune removes what Unused returns. It returns the bytes freed. A running VMM keeps its open
// files.
func (c *Cache) Prune(unused time.Duration) (int64, error) {
	paths, err := c.Unused(unused)
	if err != nil {
		return 0, err
	}
	var freed int64
	var errs []error
	for _, path := range paths {
		info, err := os.Stat(path)
		if err == nil {
			err = os.Remove(path)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, fmt.Errorf("removing an initramfs archive: %w", err))
		default:
			freed += info.Size()
		}
	}
	return freed, errors.Join(errs...)
}

// once returns the path of the named file. If it is missing, write makes it. Otherwise the file is
// marked as used, for Prune.
func (c *Cache) once(name string, write func(io.Writer) error) (string, error) {
	path := filepath.Join(c.dir, name)
	_, err, _ := c.flights.Do(name, func() (any, error) {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, create(path, write)
		}
		if now := time.Now(); err == nil && now.Sub(info.ModTime()).Abs() > markEvery {
			err = os.Chtimes(path, now, now)
		}
		return nil, err
	})
	if err != nil {
		return "", err
	}
	return path, nil
}

// create makes a file that is complete and on disk when its name appears.
func create(path string, write func(io.Writer) error) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making %s: %w", dir, err)
	}
	f, err := os.CreateTemp(dir, ".tmp-")
	if err != nil {
		return fmt.Errorf("making %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("making %s: %w", path, err)
		}
	}()
	buf := bufio.NewWriterSize(f, 1<<20)
	if err := write(buf); err != nil {
		return err
	}
	if err := errors.Join(buf.Flush(), f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// sum returns the sha256 in hex and the size of a file. It reads the file only if its stamp has
// changed.
func (c *Cache) sum(path string, limit int64) (string, int64, error) {
	f, err := regular.Open(path)
	if err != nil {
		return "", 0, fmt.Errorf("reading for an initramfs: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", 0, fmt.Errorf("reading for an initramfs: %w", err)
	}
	if info.Size() > limit {
		return "", 0, fmt.Errorf("reading %s for an initramfs: more than %d bytes", path, limit)
	}
	key := stampOf(path, info)
	c.mu.Lock()
	sum, ok := c.sums[key]
	c.mu.Unlock()
	if ok {
		return sum, info.Size(), nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", 0, fmt.Errorf("reading %s: %w", path, err)
	}
	sum = hexSum(h)
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.sums { // one state per path: an old one never comes back
		if k.path == path {
			delete(c.sums, k)
		}
	}
	c.sums[key] = sum
	return sum, info.Size(), nil
}

func stampOf(path string, info fs.FileInfo) stamp {
	s := stamp{path: path, size: info.Size(), mtime: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.dev, s.ino, s.ctime = uint64(st.Dev), st.Ino, st.Ctim.Nano()
	}
	return s
}

func hexSum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// copyChecked passes the file's content to use. It fails if the content does not have that sum,
// because a file's name is the hash of its inputs.
func copyChecked(path, sum string, use func(io.Reader) error) error {
	f, err := regular.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if err := use(io.TeeReader(f, h)); err != nil {
		return err
	}
	if hexSum(h) != sum {
		return fmt.Errorf("%s changed while it was read", path)
	}
	return nil
}

// writeAgent writes the archive whose /init is the agent. The kernel opens /dev/console as the
// standard streams of /init before anything is mounted. The directories are the agent's mount
// points.
func writeAgent(w io.Writer, agent io.Reader, size int64) error {
	a := NewWriter(w)
	for _, dir := range strings.Fields("dev proc sys newroot") {
		a.Dir(dir, 0o755)
	}
	a.CharDevice("dev/console", 0o600, 5, 1)
	a.File("init", 0o755, size, agent)
	return a.Close()
}
