// Package disk makes, clones and grows the writable disks of VMs. A disk is a raw, sparse file with
// one ext4 file system. docs/internals/images.md explains the options of mkfs.ext4.
//
// A file appears under its name only when it is complete and synced. Until then it has a temporary
// name in the same directory. After a crash, files whose names start with TempPrefix are left.
//
// This package never reads a file system. A disk that a guest has written is hostile input, so the
// host changes only the file's length. The guest grows its own file system.
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
	"banger/internal/limit"
	"banger/internal/model"
	"banger/internal/regular"
)

// TempPrefix starts the names of incomplete files. They lie beside the file that they become.
const TempPrefix = ".tmp-"

// mkfsTimeout bounds mkfs.ext4, which takes milliseconds: it initialises only the first block
// group.
const mkfsTimeout = 2 * time.Minute

// toolOutput is how many bytes of a tool's output an error quotes.
const toolOutput = 500

// mkfsArgs are the arguments of mkfs.ext4 for a file of size bytes. They keep an empty disk small
// and let it grow to GrowsTo, which Linux before 6.9 cannot do safely beyond what mkfs reserved.
func mkfsArgs(path string, size model.Bytes) []string {
	extended := fmt.Sprintf("resize=%dK,lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
		GrowsTo(size)/model.KiB)
	return []string{"-q", "-F", "-b", "4096", "-m", "0", "-E", extended, path}
}

// GrowsTo is the size to which every kernel can grow a disk that was made with the given size.
func GrowsTo(size model.Bytes) model.Bytes { return max(1*model.TiB, 8*size) }

// Create makes a sparse file of size bytes with an empty ext4 file system, and replaces what is at
// path. Without mkfs.ext4 it fails with fault.Unsupported, on a full file system with
// fault.Unavailable. After an error nothing is left.
func Create(ctx context.Context, path string, size model.Bytes) error {
	if size < model.MinDiskSize || size > model.MaxDiskSize {
		return fault.New(fault.Invalid, "creating disk %s: a size of %v is not between %v and %v",
			path, size, model.MinDiskSize, model.MaxDiskSize)
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
	case isFull(filepath.Dir(path)): // mkfs has no exit status for a full file system
		return fmt.Errorf("%s: %w", quote(out), unix.ENOSPC)
	}
	return fmt.Errorf("running mkfs.ext4: %w: %s", err, quote(out))
}

// Grow makes the disk at path size bytes long. The guest then grows the file system in it. Grow to
// a smaller size fails with fault.Invalid; growing to the present size does nothing.
func Grow(path string, size model.Bytes) error {
	if size > model.MaxDiskSize {
		return fault.New(fault.Invalid, "growing disk %s: %v is more than %v", path, size, model.MaxDiskSize)
	}
	f, err := regular.OpenFile(path, os.O_WRONLY, 0)
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

// Usage returns a disk's length and the bytes that the host's file system allocates for it.
func Usage(path string) (apparent, allocated model.Bytes, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, fmt.Errorf("looking at disk %s: %w", path, notFound(err))
	}
	// stat(2): st_blocks counts units of 512 bytes, for every block size
	return model.Bytes(st.Size), model.Bytes(st.Blocks * 512), nil
}

// replace writes a file at path with fill, under a temporary name. It then syncs the file, renames
// it, and syncs the directory.
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

// Mkdir makes directories, each in one that exists. One that exists is success. It never makes the
// state directory anew: if somebody has moved that away, an empty one would look like lost VMs.
func Mkdir(dirs ...string) error {
	for _, dir := range dirs {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// MayExist reports whether a path exists, or cannot be looked at.
func MayExist(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
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

// NoSpace adds a kind and a hint to an error about missing space for path. It returns all other
// errors, and nil, unchanged.
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
			WithHint("%s", limit.TooLarge(filepath.Dir(path)))
	}
	return err
}

// Suspect is NoSpace for errors of programs that give no reason. If the file system of path is
// full, Suspect takes that for the reason.
func Suspect(err error, path string) error {
	if err == nil || errors.Is(err, unix.ENOSPC) || !isFull(filepath.Dir(path)) {
		return NoSpace(err, path)
	}
	return NoSpace(fmt.Errorf("%w (%w)", err, unix.ENOSPC), path)
}

// isFull reports whether the file system of dir has no room even for an empty disk.
func isFull(dir string) bool {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return false
	}
	return model.Bytes(st.Bavail)*model.Bytes(st.Bsize) < 8*model.MiB || st.Files > 0 && st.Ffree == 0
}

// adminDirs hold administrators' tools. On Debian a plain user may run them, but PATH lacks them.
var adminDirs = []string{"/usr/local/sbin", "/usr/sbin", "/sbin"}

// Tool finds a program in PATH or in adminDirs. If there is none, the error is fault.Unsupported
// and its hint names the package pkg.
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
