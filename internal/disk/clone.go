package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// cloneChunk is how much is copied between two looks at the context.
const cloneChunk = 16 << 20

// Clone makes dst a copy of the file src: by reference where the file system can share blocks (FICLONE, ioctl_ficlone(2)), else by
// copying its data and leaving its holes out. What is at dst is replaced. src must not change meanwhile.
func Clone(ctx context.Context, src, dst string) error {
	from, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("cloning disk: %w", notFound(err))
	}
	defer from.Close()
	err = replace(dst, func(to *os.File) error {
		if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil {
			return nil
		}
		return copySparse(ctx, from, to)
	})
	if err != nil {
		return fmt.Errorf("cloning disk %s to %s: %w", src, dst, NoSpace(err, dst))
	}
	return nil
}

// copySparse copies the data of from to the same places in the empty file to. Where the file system knows of no holes, all is data.
func copySparse(ctx context.Context, from, to *os.File) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if err := to.Truncate(size); err != nil {
		return err
	}
	for pos := int64(0); pos < size; {
		start, err := unix.Seek(int(from.Fd()), pos, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // lseek(2): only a hole from here on
			return nil
		}
		if err != nil {
			return fmt.Errorf("finding data: %w", err)
		}
		end, err := unix.Seek(int(from.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("finding holes: %w", err)
		}
		if err := copyRange(ctx, from, to, start, min(end, size)); err != nil {
			return err
		}
		pos = end
	}
	return nil
}

// copyRange copies [start, end), which stays in the kernel (copy_file_range(2)) where that is possible.
func copyRange(ctx context.Context, from, to *os.File, start, end int64) error {
	if _, err := from.Seek(start, io.SeekStart); err != nil {
		return err
	}
	if _, err := to.Seek(start, io.SeekStart); err != nil {
		return err
	}
	for start < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(to, from, min(cloneChunk, end-start))
		if err != nil {
			return err
		}
		start += n
	}
	return nil
}
