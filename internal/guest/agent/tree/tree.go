// Package tree copies a directory's contents within the guest: modes, owners, times, extended
// attributes, symbolic links, hard links and special files.
package tree

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxDepth bounds nested directories, because the copy recurses.
const maxDepth = 4096

// Copy copies the contents of from into the existing directory to, and gives to the attributes of
// from. It leaves out top entries named in skip. It replaces entries of the same name, but merges
// directories.
func Copy(from, to string, skip ...string) error {
	c := copier{links: map[inode]string{}}
	for _, s := range skip {
		c.skip = append(c.skip, filepath.Join(from, s))
	}
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return fmt.Errorf("copying %s: %w", from, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("copying %s: %w", from, unix.ENOTDIR)
	}
	if err := c.directory(from, to, 0); err != nil {
		return err
	}
	return attributes(from, to, &st)
}

type inode struct{ dev, ino uint64 }

type copier struct {
	skip  []string
	links map[inode]string // the copy of a file with several names
}

func (c *copier) directory(from, to string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("copying %s: more than %d directories deep", from, maxDepth)
	}
	dir, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copying: %w", err)
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			if err := c.entry(filepath.Join(from, name), filepath.Join(to, name), depth); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("copying: %w", err)
		}
	}
}

func (c *copier) entry(from, to string, depth int) error {
	for _, s := range c.skip {
		if s == from {
			return nil
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return fmt.Errorf("copying %s: %w", from, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := os.Mkdir(to, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("copying %s: %w", from, err)
		}
		if err := c.directory(from, to, depth+1); err != nil {
			return err
		}
	} else if err := c.node(from, to, &st); err != nil {
		return fmt.Errorf("copying %s: %w", from, err)
	}
	return attributes(from, to, &st)
}

// node makes an entry that is no directory, without its attributes.
func (c *copier) node(from, to string, st *unix.Stat_t) error {
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	id := inode{uint64(st.Dev), st.Ino}
	if first, ok := c.links[id]; ok {
		return os.Link(first, to)
	}
	if st.Nlink > 1 {
		c.links[id] = to
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return file(from, to)
	case unix.S_IFLNK:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case unix.S_IFSOCK:
		return nil // it belongs to a program that does not run
	}
	return unix.Mknod(to, st.Mode, int(st.Rdev))
}

func file(from, to string) error {
	in, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in) // copy_file_range(2) where the file system has it
	return errors.Join(err, out.Close())
}

// attributes copies owner, mode, extended attributes and times. The order matters: changing the
// owner clears set-user-ID and capabilities.
func attributes(from, to string, st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		return nil
	}
	err := unix.Lchown(to, int(st.Uid), int(st.Gid))
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFLNK {
		err = unix.Chmod(to, st.Mode&0o7777)
	}
	if err == nil {
		err = xattrs(from, to)
	}
	if err == nil {
		times := []unix.Timespec{st.Atim, st.Mtim}
		err = unix.UtimesNanoAt(unix.AT_FDCWD, to, times, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return fmt.Errorf("copying the attributes of %s: %w", from, err)
	}
	return nil
}
