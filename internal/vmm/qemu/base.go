package qemu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/vmm/memory"
)

// fileID is the identity of a file.
type fileID struct {
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
	Born   int64  `json:"born,omitempty"` // nanoseconds; 0 if the file system does not know
}

// identify returns the identity of a regular file, which may be open with O_PATH.
func identify(f *os.File) (*fileID, error) {
	var st unix.Statx_t
	const flags = unix.AT_EMPTY_PATH | unix.AT_STATX_DONT_SYNC
	if err := unix.Statx(int(f.Fd()), "", flags, unix.STATX_TYPE|unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return nil, fmt.Errorf("identifying %s: %w", f.Name(), err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fault.New(fault.Invalid, "identifying %s: it is no regular file", f.Name())
	}
	id := &fileID{Device: unix.Mkdev(st.Dev_major, st.Dev_minor), Inode: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.Born = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
	}
	return id, nil
}

// openBase opens the memory file that a machine was restored from, which may have lost its name. A
// VMM that a guest has taken over can put any file of the user at that descriptor, because Landlock
// does not refuse O_PATH. So the file must be the one of the start.
func openBase(pid int, started *fileID, mapped memory.Backing) (*os.File, error) {
	const doing = "opening the memory that the machine was restored from"
	path := fmt.Sprintf("/proc/%d/fd/%d", pid, memoryFD)
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	place := os.NewFile(uintptr(fd), path)
	defer place.Close()
	id, err := identify(place)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	switch {
	case started != nil && *id != *started:
		return nil, fault.New(fault.Denied, "%s: the VMM has another file in its place", doing)
	case started == nil && (id.Device != mapped.Device || id.Inode != mapped.Inode):
		// An older version did not store the identity. The VMM can map only what it may read.
		return nil, fault.New(fault.Unsupported, "%s: it is not certain to be the file that the VMM maps", doing).
			WithHint("an older version started the machine: stop the VM and start it again")
	}
	base, err := reopen(place, os.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return base, nil
}

// directoryOf returns the directory of an open file, or "" if the file has none.
func directoryOf(f *os.File) string {
	place, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	if err != nil || !filepath.IsAbs(place) {
		return ""
	}
	return filepath.Dir(place)
}

// fullBase returns the file system of the memory file that a machine was restored from, if it is
// full; otherwise "". On a tmpfs, the first access to a hole of the file needs space, and SIGBUS
// ends a VMM that gets none. An overlay may be on a tmpfs.
func fullBase(dir string) string {
	const few = 64 // pages: what others have freed since
	var st unix.Statfs_t
	for at := dir; at != ""; at = filepath.Dir(at) {
		err := unix.Statfs(at, &st)
		if errors.Is(err, unix.ENOENT) && at != filepath.Dir(at) { // removed since
			continue
		}
		if err == nil && (st.Type == unix.TMPFS_MAGIC || st.Type == unix.OVERLAYFS_SUPER_MAGIC) && st.Bavail < few {
			return at
		}
		break
	}
	return ""
}
