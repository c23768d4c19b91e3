package rootfs

import (
	"context"
	"io"

	"banger/internal/fault"
	"banger/internal/model"
)

// Limits bound what an image may use on this host. A zero field means its default.
type Limits struct {
	Layers int // of one image; 256 by default (builders stop at 127)
	// Compressed bounds all layers together as they come from a registry or archive; 32 GiB by
	// default.
	Compressed model.Bytes
	// Size bounds all layers uncompressed, and all files with their holes filled; 64 GiB by
	// default.
	Size    model.Bytes
	Entries int // in all archives, and files; 2 million by default
	// Tree bounds the memory for the files of all layers together, without contents: names, link
	// targets, attributes, waiting hard links. By default 768 MiB, enough for a million files.
	Tree model.Bytes
}

// WithDefaults returns the limits with every zero field set.
func (l Limits) WithDefaults() Limits {
	if l.Layers <= 0 {
		l.Layers = 256
	}
	if l.Compressed <= 0 {
		l.Compressed = 32 * model.GiB
	}
	if l.Size <= 0 {
		l.Size = 64 * model.GiB
	}
	if l.Entries <= 0 {
		l.Entries = 2_000_000
	}
	if l.Tree <= 0 {
		l.Tree = 768 * model.MiB
	}
	return l
}

// Bounds that no option changes: those of ext4 and Linux, and generous ones for documents.
const (
	maxName   = 255     // bytes of a file's name (NAME_MAX)
	maxPath   = 4096    // bytes of a path (PATH_MAX)
	maxTarget = 4095    // bytes of a symbolic link's target: an ext4 block minus the NUL
	maxLinks  = 65000   // hard links of a file, subdirectories (EXT4_LINK_MAX)
	maxHops   = 40      // symbolic links in one path, as in the kernel (path_resolution(7))
	maxWork   = 1 << 30 // steps and bytes of resolving all paths of an image
	// maxFile is in bytes. The ext4 writer's extent tree is wrong above 42.5 GiB.
	maxFile = 40 << 30
	maxID   = 1<<32 - 2 // uid and gid; the next value means "none" (chown(2))
	// maxXattrs bounds the attributes of a file that are looked at. Their names together have at
	// most 64 KiB in Linux (XATTR_LIST_MAX), but their order is checked pair by pair.
	maxXattrs = 32
)

// What the tree and the ext4 writer keep in memory besides strings, in bytes, by measurement
// (BenchmarkBombs).
const (
	inodeCost = 768
	dirCost   = 512 // in addition, for the tables of names
	nameCost  = 160 // of another name of a file
	xattrCost = 192
)

// TooLarge is the error for a thing beyond a limit.
func TooLarge(what string, limit any) error {
	return fault.New(fault.Invalid, "%s is larger than the limit of %v", what, limit).
		WithHint("The limit protects this host, and no setting changes it. Use a smaller image. " +
			"If only the number of its files is too large, import the image as an ext4 file.")
}

func invalid(format string, args ...any) *fault.Error {
	return fault.New(fault.Invalid, format, args...)
}

// budget counts the bytes that may still be read from an image's layers.
type budget struct {
	left  int64
	limit model.Bytes
}

// reader returns r, which fails when the budget or ctx ends.
func (b *budget) reader(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		n, err := r.Read(p)
		if b.left -= int64(n); b.left < 0 {
			return 0, TooLarge("the uncompressed image", b.limit)
		}
		return n, err
	})
}

// Bounded returns r, which fails after limit bytes, and when ctx ends.
func Bounded(ctx context.Context, r io.Reader, limit model.Bytes) io.Reader {
	return (&budget{left: int64(limit), limit: limit}).reader(ctx, r)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
