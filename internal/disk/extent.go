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

// copyChunk is how much is copied between two looks at the context.
const copyChunk = 16 << 20

// Extent is a stretch of a file, [Start, End), that may hold something else than zeros.
type Extent struct{ Start, End int64 }

// Extents goes through the first size bytes of a file in order and leaves out its holes. Where the file system knows of no holes, all is
// one extent. It moves the file's offset, also that of descriptors that share it; the loop's body may move it, too. After an error it ends.
func Extents(f *os.File, size int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		for pos := int64(0); pos < size; {
			start, err := unix.Seek(int(f.Fd()), pos, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) { // lseek(2): only a hole from here on
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

// CloneFile makes the empty file to a copy of from as it is now: by reference where the file system can share blocks (FICLONE,
// ioctl_ficlone(2)), else like CopySparse. It does not sync.
func CloneFile(ctx context.Context, from, to *os.File) error {
	if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil {
		return nil
	}
	return CopySparse(ctx, from, to)
}

// CopySparse copies the data of from to the same places in the empty file to, and leaves the holes out. It does not sync. Both files'
// offsets move.
func CopySparse(ctx context.Context, from, to *os.File) error {
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
		if err := copyExtent(ctx, from, to, e); err != nil {
			return err
		}
	}
	return nil
}

// copyExtent copies what is in an extent, which stays in the kernel (copy_file_range(2)) where that is possible.
func copyExtent(ctx context.Context, from, to *os.File, e Extent) error {
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
	}
	return nil
}
