package mount

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// emptyInitramfs removes everything in the old root directory, which frees its memory. It never
// enters another file system. The agent's own program stays in memory while it runs.
func emptyInitramfs(root *os.File) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(root.Fd()), &st); err != nil {
		return fmt.Errorf("freeing the initramfs: %w", err)
	}
	if st.Type != unix.RAMFS_MAGIC && st.Type != unix.TMPFS_MAGIC {
		return fmt.Errorf("freeing the initramfs: the old root is no memory file system (type %#x)", st.Type)
	}
	var dev unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &dev); err != nil {
		return fmt.Errorf("freeing the initramfs: %w", err)
	}
	return emptyDirectory(root, uint64(dev.Dev))
}

func emptyDirectory(dir *os.File, dev uint64) error {
	names, err := dir.Readdirnames(-1)
	if err != nil && err != io.EOF {
		return fmt.Errorf("freeing the initramfs: %w", err)
	}
	fd := int(dir.Fd())
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || uint64(st.Dev) != dev {
			continue
		}
		flags := 0
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			flags = unix.AT_REMOVEDIR
			if err := emptyBelow(fd, name, dev); err != nil {
				return err
			}
		}
		if err := unix.Unlinkat(fd, name, flags); err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			return fmt.Errorf("freeing the initramfs: removing %s: %w", name, err)
		}
	}
	return nil
}

func emptyBelow(fd int, name string, dev uint64) error {
	sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("freeing the initramfs: opening %s: %w", name, err)
	}
	dir := os.NewFile(uintptr(sub), name)
	defer dir.Close()
	return emptyDirectory(dir, dev)
}

// onlyDirectories reports whether every existing part of path below root is a directory and no
// link.
func onlyDirectories(root, path string) bool {
	at := root
	for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
		at = filepath.Join(at, part)
		info, err := os.Lstat(at)
		if os.IsNotExist(err) {
			return true
		}
		if err != nil || !info.IsDir() {
			return false
		}
	}
	return true
}
