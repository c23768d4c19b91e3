package memory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// cloneChunk is the number of bytes that are copied between two checks of the context.
const cloneChunk = 64 << 20

// clone gives out, which is empty, the content of from. If the file system can, the files share
// their data (FICLONE, ioctl_ficlone(2)). Otherwise the data is copied. The offset of from changes.
func clone(ctx context.Context, from, out *os.File) error {
	if unix.IoctlFileClone(int(out.Fd()), int(from.Fd())) == nil {
		return nil
	}
	info, err := from.Stat()
	if err != nil {
		return err
	}
	for at := int64(0); at < info.Size(); {
		start, err := unix.Seek(int(from.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // lseek(2): a hole up to the end
			return nil
		}
		if err != nil {
			return fmt.Errorf("finding data: %w", err)
		}
		end, err := unix.Seek(int(from.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("finding holes: %w", err)
		}
		for at = start; at < end; {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			n := min(cloneChunk, end-at)
			if err := copyRange(from, out, at, n); err != nil {
				return err
			}
			at += n
		}
	}
	return nil
}

// copyRange copies length bytes to the same offset. If possible the kernel does it
// (copy_file_range(2)).
func copyRange(from, out *os.File, at, length int64) error {
	in, to := at, at
	for in < at+length {
		n, err := unix.CopyFileRange(int(from.Fd()), &in, int(out.Fd()), &to, int(at+length-in), 0)
		if err == nil && n > 0 {
			continue
		}
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
			return err
		}
		// The kernel cannot copy between these files.
		_, err = io.Copy(io.NewOffsetWriter(out, in), io.NewSectionReader(from, in, at+length-in))
		return err
	}
	return nil
}

// Dig makes holes of the zero pages of a file.
func Dig(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("finding zero pages: %w", err)
	}
	buf := make([]byte, bounced*pageSize)
	for at := int64(0); at < info.Size(); at += int64(len(buf)) {
		n, err := f.ReadAt(buf, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("finding zero pages: %w", err)
		}
		for from := 0; from < n/pageSize; {
			to := from
			for to < n/pageSize && bytes.Equal(buf[to*pageSize:(to+1)*pageSize], zero[:]) {
				to++
			}
			if to > from {
				if err := punch(f, at/pageSize+int64(from), at/pageSize+int64(to)); err != nil {
					return err
				}
			}
			from = to + 1
		}
	}
	return nil
}

// punch makes a hole of pages. If the file system has no holes, it writes zeros.
func punch(f *os.File, from, to int64) error {
	const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	err := unix.Fallocate(int(f.Fd()), mode, from*pageSize, (to-from)*pageSize)
	if errors.Is(err, unix.EOPNOTSUPP) {
		_, err = f.WriteAt(make([]byte, (to-from)*pageSize), from*pageSize)
	}
	if err != nil {
		return fmt.Errorf("making a hole: %w", err)
	}
	return nil
}
