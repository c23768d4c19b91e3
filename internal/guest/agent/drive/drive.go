// Package drive finds block devices by their ids and grows the ext4 file systems on them.
//
// A drive's id is what the device returns for VIRTIO_BLK_T_GET_ID (virtio specification 1.2,
// section 5.2.6): at most 20 bytes.
package drive

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxID is the length of a drive's id. The device cuts longer ones.
const maxID = 20

// cut returns an id as the guest sees it.
func cut(id string) string { return strings.TrimSpace(id[:min(len(id), maxID)]) }

// Find returns the device file of the drive with that id.
func Find(id string) (string, error) {
	name, err := find(blockDir, id)
	if err != nil {
		return "", err
	}
	return filepath.Join("/dev", name), nil
}

func find(dir, id string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("looking for drive %s: %w", id, err)
	}
	found := ""
	for _, e := range entries {
		// The kernel asks the device at each read, so this is the id that the drive has now.
		got, err := os.ReadFile(filepath.Join(dir, e.Name(), "serial"))
		if err != nil || cut(string(got)) == "" || cut(string(got)) != cut(id) {
			continue
		}
		if found != "" {
			return "", fmt.Errorf("looking for drive %s: %s and %s both have this id", id, found, e.Name())
		}
		found = e.Name()
	}
	if found == "" {
		return "", fmt.Errorf("looking for drive %s: %w", id, fs.ErrNotExist)
	}
	return found, nil
}

// DropCache makes the kernel forget what it read from the device. A fork remembers its parent's
// drives.
func DropCache(dev string) error {
	f, err := os.Open(dev)
	if err != nil {
		return fmt.Errorf("dropping the cache of a drive: %w", err)
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("dropping the cache of %s: %w", dev, err)
	}
	return nil
}

// Size is the device's size in bytes.
func Size(dev string) (int64, error) {
	// In units of 512 bytes, whatever the device's own are (Documentation/ABI/stable/sysfs-block).
	text, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(dev), "size"))
	if err != nil {
		return 0, fmt.Errorf("reading the size of %s: %w", dev, err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 54)
	if err != nil {
		return 0, fmt.Errorf("reading the size of %s: %w", dev, err)
	}
	return n * 512, nil
}

// Super is the part of an ext4 superblock that we need (Documentation/filesystems/ext4/super.rst).
type Super struct {
	Blocks    int64
	BlockSize int64
}

// Place and parts of the superblock, little-endian.
const (
	superOffset  = 1024
	superSize    = 1024
	offBlocksLo  = 0x4
	offLogBlock  = 0x18 // block size is 1024 << this
	offMagic     = 0x38
	offIncompat  = 0x60
	offBlocksHi  = 0x150
	magic        = 0xEF53
	incompat64   = 0x80 // blocks have a high half
	maxLogBlocks = 6    // 64 KiB
)

// ReadSuper reads the superblock of the ext4 file system on dev.
func ReadSuper(dev string) (Super, error) {
	f, err := os.Open(dev)
	if err != nil {
		return Super{}, fmt.Errorf("reading the superblock of %s: %w", dev, err)
	}
	defer f.Close()
	buf := make([]byte, superSize)
	if _, err := f.ReadAt(buf, superOffset); err != nil && err != io.EOF {
		return Super{}, fmt.Errorf("reading the superblock of %s: %w", dev, err)
	}
	s, err := parseSuper(buf)
	if err != nil {
		return Super{}, fmt.Errorf("reading the superblock of %s: %w", dev, err)
	}
	return s, nil
}

func parseSuper(b []byte) (Super, error) {
	if len(b) < superSize {
		return Super{}, fmt.Errorf("it has %d bytes: %w", len(b), io.ErrUnexpectedEOF)
	}
	le := binary.LittleEndian
	if le.Uint16(b[offMagic:]) != magic {
		return Super{}, fmt.Errorf("no ext4 file system is there")
	}
	shift := le.Uint32(b[offLogBlock:])
	if shift > maxLogBlocks {
		return Super{}, fmt.Errorf("block size 1024<<%d is impossible", shift)
	}
	blocks := uint64(le.Uint32(b[offBlocksLo:]))
	if le.Uint32(b[offIncompat:])&incompat64 != 0 {
		blocks |= uint64(le.Uint32(b[offBlocksHi:])) << 32
	}
	return Super{Blocks: int64(blocks & (1<<48 - 1)), BlockSize: 1024 << shift}, nil
}
