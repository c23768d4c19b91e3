package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"banger/internal/guest/proto"
)

// replaceFile writes a system file. It rewrites a regular file in place, because making one again
// is expensive in an overlay. It replaces anything else, such as a link at /etc/resolv.conf.
func replaceFile(name string, data []byte) error {
	if done, err := rewriteFile(name, data); done {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// rewriteFile gives a regular file with one name a new content. It reports whether there is such a
// file.
func rewriteFile(name string, data []byte) (bool, error) {
	f, err := os.OpenFile(name, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, nil
	}
	defer f.Close()
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 || st.Mode&0o444 != 0o444 {
		return false, nil
	}
	if old, err := io.ReadAll(io.LimitReader(f, int64(len(data)+1))); err == nil && bytes.Equal(old, data) {
		return true, nil
	}
	// The file is not truncated first: overwriting its only block happens in memory, freeing and
	// allocating a block does not.
	if _, err = f.WriteAt(data, 0); err == nil && st.Size > int64(len(data)) {
		err = f.Truncate(int64(len(data)))
	}
	if err != nil {
		return true, fmt.Errorf("writing %s: %w", name, err)
	}
	return true, nil
}

// readBounded reads at most limit bytes of a regular file. A missing file is empty.
func readBounded(name string, limit int64) ([]byte, error) {
	// O_NONBLOCK: the image may have a named pipe here.
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, nil
	}
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return data, nil
}

// maxProc bounds the part of a file in /proc that is read, in bytes.
const maxProc = 4 << 20

// writeFile writes a file that the host chose. It follows links and makes missing parent
// directories for the same owner.
func writeFile(f proto.File) error {
	if err := makeParents(filepath.Dir(f.Path), f.UID, f.GID); err != nil {
		return fmt.Errorf("writing %s: %w", f.Path, err)
	}
	file, err := os.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NONBLOCK|unix.O_NOCTTY, 0o600)
	if err != nil {
		return fmt.Errorf("writing %s: %w", f.Path, err)
	}
	defer file.Close()
	if _, err := file.Write(f.Data); err != nil {
		return fmt.Errorf("writing %s: %w", f.Path, err)
	}
	if err := file.Chown(f.UID, f.GID); err != nil {
		return fmt.Errorf("writing %s: %w", f.Path, err)
	}
	if err := unix.Fchmod(int(file.Fd()), f.Mode&0o7777); err != nil {
		return fmt.Errorf("setting the mode of %s: %w", f.Path, err)
	}
	return nil
}

func makeParents(dir string, uid, gid int) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if err := makeParents(filepath.Dir(dir), uid, gid); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chown(dir, uid, gid)
}

// writeAtomically replaces a file in a directory of ours.
func writeAtomically(name, text string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	part := name + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := os.WriteFile(part, []byte(text), mode); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return os.Rename(part, name)
}
