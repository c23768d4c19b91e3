// Package disk makes, clones and grows the writable disks of VMs: raw, sparse files that hold one ext4 file system each.
//
// A file appears under its name only when it is complete and synced: it is made under a temporary name beside it. What a crash leaves
// behind is a file whose name starts with TempPrefix.
//
// Nothing here reads a file system. A disk that a guest has written is hostile input, so the host changes no more than the file's length;
// the guest grows its own file system.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
)

// TempPrefix starts the names of files that are not complete. They live beside the file that they were to become.
const TempPrefix = ".tmp-"

// mkfsTimeout bounds a mkfs.ext4, which takes milliseconds since it initializes nothing but the first block group.
const mkfsTimeout = 2 * time.Minute

// toolOutput is how much of a tool's complaint an error quotes, in bytes.
const toolOutput = 500

// mkfsArgs are the arguments of mkfs.ext4 for a file that holds size bytes. Inode tables and the journal are left to the guest's kernel to initialize and
// nothing is discarded (the file is a hole already), which keeps making a disk of 10G at some 4 ms and 744 KB. What is kept for growing is bounded: by
// itself mkfs keeps 4 MB, of which each VM would have a copy. Beyond the bound Linux changes the file system to meta_bg, as it also would if nothing were
// kept; but before 6.9 (and the stable kernels of that time) that overwrote data. Blocks are large on small disks, too, since small ones cannot keep so
// much. No blocks are reserved for root: the guest's user is root as a rule. The root folder is root's, whoever runs mkfs.
func mkfsArgs(path string, size model.Bytes) []string {
	extended := fmt.Sprintf("resize=%dK,lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0", GrowsTo(size)/model.KiB)
	return []string{"-q", "-F", "-b", "4096", "-m", "0", "-E", extended, path}
}

// GrowsTo is how large the file system on a disk that was made with a size can become with every kernel.
func GrowsTo(size model.Bytes) model.Bytes { return max(1*model.TiB, 8*size) }

// Create makes a sparse file of the given size with an empty ext4 file system in it. A file that is there already is replaced. It
// fails with fault.Unsupported when there is no mkfs.ext4, and fault.Unavailable when the host's file system is full; then nothing is left.
func Create(ctx context.Context, path string, size model.Bytes) error {
	if size < model.MinDiskSize || size > model.MaxDiskSize {
		return fault.New(fault.Invalid, "creating disk %s: a size of %v is not between %v and %v", path, size, model.MinDiskSize, model.MaxDiskSize)
	}
	mkfs, err := Tool("mkfs.ext4", "e2fsprogs")
	if err != nil {
		return fmt.Errorf("creating disk %s: %w", path, err)
	}
	err = replace(path, func(f *os.File) error {
		if err := f.Truncate(int64(size)); err != nil {
			return err
		}
		return runMkfs(ctx, mkfs, f.Name(), size)
	})
	if err != nil {
		return fmt.Errorf("creating disk %s: %w", path, NoSpace(err, path))
	}
	return nil
}

func runMkfs(ctx context.Context, mkfs, path string, size model.Bytes) error {
	ctx, cancel := context.WithTimeout(ctx, mkfsTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, mkfs, mkfsArgs(path, size)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case isFull(filepath.Dir(path)): // mkfs has no exit status of its own for it
		return fmt.Errorf("%s: %w", quote(out), unix.ENOSPC)
	}
	return fmt.Errorf("running mkfs.ext4: %w: %s", err, quote(out))
}

// Grow makes the disk at path size bytes long. The file system in it is the guest's to grow. It refuses to shrink (fault.Invalid);
// growing to the present size does nothing.
func Grow(path string, size model.Bytes) error {
	if size > model.MaxDiskSize {
		return fault.New(fault.Invalid, "growing disk %s: %v is more than %v", path, size, model.MaxDiskSize)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("growing disk: %w", notFound(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("growing disk: %w", err)
	}
	now := model.Bytes(info.Size())
	if size < now {
		return fault.New(fault.Invalid, "growing disk %s to %v: it has %v already", path, size, now).
			WithHint("Disks can only grow.")
	}
	if size == now {
		return nil
	}
	if err := f.Truncate(int64(size)); err != nil {
		return fmt.Errorf("growing disk: %w", NoSpace(err, path))
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("growing disk: %w", NoSpace(err, path))
	}
	return nil
}

// Usage tells how large a disk is for the guest and how much of it the host's file system really holds.
func Usage(path string) (apparent, allocated model.Bytes, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, fmt.Errorf("looking at disk %s: %w", path, notFound(err))
	}
	return model.Bytes(st.Size), model.Bytes(st.Blocks * 512), nil // stat(2): st_blocks counts 512 bytes, whatever the block size
}

// replace makes the file at path from what fill writes: under a temporary name, then synced, then renamed, then the folder synced.
func replace(path string, fill func(*os.File) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, TempPrefix+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			err = errors.Join(err, ignoreMissing(os.Remove(f.Name())))
		}
	}()
	if err := fill(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// SyncDir makes the names in a folder durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func notFound(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.NotFound, "%w", err)
	}
	return err
}

// NoSpace gives an error that says that the host has no room left for path the kind and hint that a person needs. Other errors, nil
// among them, are returned as they are.
func NoSpace(err error, path string) error {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return fault.New(fault.Unavailable, "no space left for %s: %w", path, err).
			WithHint("Free some space on the file system of %s (banger image prune may help), or move BANGER_HOME to a larger one.", filepath.Dir(path))
	case errors.Is(err, unix.EDQUOT):
		return fault.New(fault.Unavailable, "the disk quota is used up at %s: %w", path, err).
			WithHint("Free some of your files, or move BANGER_HOME to another file system.")
	case errors.Is(err, unix.EFBIG):
		return fault.New(fault.Unavailable, "%s would be larger than files may be here: %w", path, err).
			WithHint("Look at ulimit -f and at the limits of the file system of %s.", filepath.Dir(path))
	}
	return err
}

// Suspect is NoSpace for errors of programs that do not say what kept them from writing to path: if there is no room, that is taken for the reason.
func Suspect(err error, path string) error {
	if err == nil || errors.Is(err, unix.ENOSPC) || !isFull(filepath.Dir(path)) {
		return NoSpace(err, path)
	}
	return NoSpace(fmt.Errorf("%w (%w)", err, unix.ENOSPC), path)
}

// isFull tells whether the file system of dir has no room for even an empty disk.
func isFull(dir string) bool {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return false
	}
	return model.Bytes(st.Bavail)*model.Bytes(st.Bsize) < 8*model.MiB || st.Files > 0 && st.Ffree == 0
}

// adminDirs hold the tools of administrators, which PATH of a plain user lacks on Debian though the user may run them.
var adminDirs = []string{"/usr/local/sbin", "/usr/sbin", "/sbin"}

// Tool finds a program in PATH or where administrators' tools are. If there is none the error is fault.Unsupported and its hint names the
// package that has it.
func Tool(name, pkg string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range adminDirs {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fault.New(fault.Unsupported, "there is no %s on this machine", name).
		WithHint("Install it: apt install %s", pkg)
}

func quote(out []byte) string {
	return strings.ToValidUTF8(strings.TrimSpace(string(out[:min(len(out), toolOutput)])), "?")
}
