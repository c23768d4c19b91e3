// Package drive finds block devices by their serial number and looks after the ext4 file systems on them.
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

// Find returns the device file of the drive with that serial number.
func Find(serial string) (string, error) {
	name, err := find(blockDir, serial)
	if err != nil {
		return "", err
	}
	return filepath.Join("/dev", name), nil
}

func find(dir, serial string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("looking for drive %s: %w", serial, err)
	}
	for _, e := range entries {
		got, err := os.ReadFile(filepath.Join(dir, e.Name(), "serial"))
		if err == nil && strings.TrimSpace(string(got)) == serial {
			return e.Name(), nil
		}
	}
	return "", fmt.Errorf("looking for drive %s: %w", serial, fs.ErrNotExist)
}

// DropCache makes the kernel forget what it has read from the device: a machine that was forked remembers the parent's drives.
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

// Super is what we read of an ext4 superblock (Documentation/filesystems/ext4/super.rst).
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
