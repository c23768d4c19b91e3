package disk

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/internal/model"
)

// linux/fiemap.h and linux/fs.h (Documentation/filesystems/fiemap.rst).
const (
	// _IOWR('f', 11, struct fiemap), as amd64, arm64, riscv64 and s390x encode it
	fsIocFiemap        = 0xc020660b
	fiemapExtentLast   = 0x0001
	fiemapExtentShared = 0x2000
	fiemapExtents      = 128 // per call
)

type fiemapExtent struct {
	logical, physical, length uint64
	_                         [2]uint64
	flags                     uint32
	_                         [3]uint32
}

type fiemap struct {
	start, length                  uint64
	flags, mapped, count, reserved uint32
	extents                        [fiemapExtents]fiemapExtent
}

// Shared returns how many of a file's allocated bytes are shared by reference with other files. It
// returns 0 if the file system does not report it, as those that cannot share do not.
func Shared(f *os.File) (model.Bytes, error) {
	var shared uint64
	for start := uint64(0); ; {
		m := fiemap{start: start, length: ^uint64(0) - start, count: fiemapExtents}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsIocFiemap, uintptr(unsafe.Pointer(&m)))
		switch {
		case errors.Is(errno, unix.EOPNOTSUPP), errors.Is(errno, unix.ENOTTY), errors.Is(errno, unix.EINVAL):
			return 0, nil
		case errors.Is(errno, unix.EINTR):
			continue
		case errno != 0:
			return 0, fmt.Errorf("looking for shared blocks of %s: %w", f.Name(), errno)
		}
		for _, e := range m.extents[:min(m.mapped, fiemapExtents)] {
			if e.flags&fiemapExtentShared != 0 {
				shared += e.length
			}
			if e.flags&fiemapExtentLast != 0 || e.logical+e.length <= start {
				return model.Bytes(shared), nil
			}
			start = e.logical + e.length
		}
		if m.mapped == 0 {
			return model.Bytes(shared), nil
		}
	}
}
