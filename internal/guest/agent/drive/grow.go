package drive

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resizeFS is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64) (fs/ext4/ext4.h): grow the mounted file
// system to so many blocks.
const resizeFS = 1<<30 | 8<<16 | 'f'<<8 | 16

// Grow makes the mounted ext4 file system on dev as large as the device is now. root is its open
// root directory. Grow reports whether it changed anything.
func Grow(dev string, root *os.File) (bool, error) {
	size, err := Size(dev)
	if err != nil {
		return false, err
	}
	// This reads the page cache in which ext4 itself keeps its superblock, so it is up to date.
	super, err := ReadSuper(dev)
	if err != nil {
		return false, err
	}
	blocks := uint64(size / super.BlockSize)
	if blocks <= uint64(super.Blocks) {
		return false, nil
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, root.Fd(), resizeFS, uintptr(unsafe.Pointer(&blocks))); errno != 0 {
		return false, fmt.Errorf("growing the file system on %s to %d blocks: %w", dev, blocks, errno)
	}
	return true, nil
}
