// Package descriptor finds the file descriptors that a process has inherited. A descriptor of its
// caller can hold a lock or keep a pipe open, so a daemon must not keep it.
package descriptor

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Inherited returns the descriptors from 3 on that a new program would inherit. Descriptors that
// this program has opened are not among them, because Go opens all with O_CLOEXEC.
func Inherited() ([]int, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, fmt.Errorf("listing the open files: %w", err)
	}
	var fds []int
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd < 3 {
			continue
		}
		// The listing's own descriptor is closed already.
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			fds = append(fds, fd)
		}
	}
	return fds, nil
}

// Keep makes programs that are started later inherit nothing but descriptors 0 to 2, and what they
// are given.
func Keep() error {
	fds, err := Inherited()
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	return err
}

// Close closes what was inherited, but for the descriptors in except.
func Close(except ...int) error {
	fds, err := Inherited()
	for _, fd := range fds {
		if !slices.Contains(except, fd) {
			err = errors.Join(err, unix.Close(fd))
		}
	}
	return err
}
