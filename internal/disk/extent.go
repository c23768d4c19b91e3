package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"golang.org/x/sys/unix"
)

// copyChunk is how many bytes are copied between two checks of the context.
const copyChunk = 16 << 20

// Extent is a part of a file, [Start, End), that may hold more than zeros.
type Extent struct{ Start, End int64 }

// Extents yields the extents of the first size bytes of a file, in order, without its holes. It
// moves the file's offset, also for descriptors that share it; the loop's body may move it too. It
// ends after an error.
func Extents(f *os.File, size int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		for pos := int64(0); pos < size; {
			start, err := unix.Seek(int(f.Fd()), pos, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) { // lseek(2): the rest is a hole
				return
			}
			if err != nil {
				yield(Extent{}, fmt.Errorf("finding data in %s: %w", f.Name(), err))
				return
			}
			if start >= size {
				return
			}
			end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
			if err != nil {
				yield(Extent{}, fmt.Errorf("finding holes in %s: %w", f.Name(), err))
				return
			}
			end = min(end, size)
			if !yield(Extent{start, end}, nil) {
				return
			}
			pos = end
		}
	}
}

// CloneFile makes the empty file to a copy of from. It shares blocks if the file system can
// (FICLONE, ioctl_ficlone(2)); otherwise it calls CopySparse. It does not sync.
func CloneFile(ctx context.Context, from, to *os.File) error { return cloneFile(ctx, from, to, nil) }

func cloneFile(ctx context.Context, from, to *os.File, room *Room) error {
	if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil {
		return nil
	}
	return copySparse(ctx, from, to, room)
}

// CopySparse copies the data of from to the same offsets of the empty file to, and leaves holes. It
// does not sync. It moves the offsets of both files.
func CopySparse(ctx context.Context, from, to *os.File) error { return copySparse(ctx, from, to, nil) }

func copySparse(ctx context.Context, from, to *os.File, room *Room) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if err := to.Truncate(info.Size()); err != nil {
		return err
	}
	for e, err := range Extents(from, info.Size()) {
		if err != nil {
			return err
		}
		if err := copyExtent(ctx, from, to, e, room); err != nil {
			return err
		}
	}
	return nil
}

// copyExtent copies one extent, inside the kernel where possible (copy_file_range(2)).
func copyExtent(ctx context.Context, from, to *os.File, e Extent, room *Room) error {
	if _, err := from.Seek(e.Start, io.SeekStart); err != nil {
		return err
	}
	if _, err := to.Seek(e.Start, io.SeekStart); err != nil {
		return err
	}
	for at := e.Start; at < e.End; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(to, from, min(copyChunk, e.End-at))
		if err != nil {
			return err
		}
		at += n
		if err := room.Add(int(n)); err != nil {
			return err
		}
	}
	return nil
}
