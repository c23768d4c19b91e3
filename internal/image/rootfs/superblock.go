package rootfs

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
)

// Fields and flags of the superblock (Linux, Documentation/filesystems/ext4/super.rst).
const (
	superOffset   = 1024
	superBlocksLo = 0x4
	superLogBlock = 0x18
	superMagic    = 0x38
	superIncompat = 0x60
	superBlocksHi = 0x150

	incompatRecover    = 0x4  // the journal must be replayed
	incompatJournalDev = 0x8  // a journal, not a file system
	incompat64bit      = 0x80 // the number of blocks has a high half
)

// CheckExt4 checks the superblock against the file's size, and returns the file system's size.
func CheckExt4(f *os.File) (int64, error) {
	super := make([]byte, 1024)
	if _, err := f.ReadAt(super, superOffset); err != nil {
		return 0, invalid("the superblock is cut off")
	}
	if binary.LittleEndian.Uint16(super[superMagic:]) != 0xef53 {
		return 0, invalid("it has no ext4 superblock")
	}
	incompat := binary.LittleEndian.Uint32(super[superIncompat:])
	switch {
	case incompat&incompatJournalDev != 0:
		return 0, invalid("it is an ext4 journal, no file system")
	case incompat&incompatRecover != 0:
		return 0, fault.New(fault.Invalid, "the file system was not unmounted: its journal is not empty").
			WithHint("Run e2fsck -fy on a copy of it and import that.")
	}
	logBlock := binary.LittleEndian.Uint32(super[superLogBlock:])
	if logBlock > 6 {
		return 0, invalid("the superblock claims blocks of 2^%d bytes", 10+uint64(logBlock))
	}
	blocks := uint64(binary.LittleEndian.Uint32(super[superBlocksLo:]))
	if incompat&incompat64bit != 0 {
		blocks |= uint64(binary.LittleEndian.Uint32(super[superBlocksHi:])) << 32
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if have := uint64(info.Size()) >> (10 + logBlock); blocks == 0 || blocks > have {
		return 0, invalid("the superblock claims %d blocks, and the file has %d", blocks, have)
	}
	return int64(blocks << (10 + logBlock)), nil
}

// SparseSum returns the sha256 of a file's size and of its non-zero blocks with their offsets. It
// does not depend on holes, and skips them quickly.
func SparseSum(ctx context.Context, f *os.File, size int64) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "banger ext4 %d\n", size)
	for pos := int64(0); pos < size; {
		start, err := unix.Seek(int(f.Fd()), pos, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return "", fmt.Errorf("finding data: %w", err)
		}
		end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return "", fmt.Errorf("finding holes: %w", err)
		}
		start -= start % blockSize
		if err := sumBlocks(ctx, h, f, start, min(end, size)); err != nil {
			return "", err
		}
		pos = end
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func sumBlocks(ctx context.Context, h hash.Hash, f *os.File, start, end int64) error {
	buf := make([]byte, 256*blockSize)
	for start < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.ReadAt(buf[:min(int64(len(buf)), end-start)], start)
		if err != nil && err != io.EOF || n == 0 {
			return fmt.Errorf("reading at %d: %w", start, cmp.Or(err, io.ErrUnexpectedEOF))
		}
		for at := 0; at < n; at += blockSize {
			block := buf[at:min(at+blockSize, n)]
			if bytes.Equal(block, zeroBlock[:len(block)]) {
				continue
			}
			var place [8]byte
			binary.BigEndian.PutUint64(place[:], uint64(start+int64(at)))
			h.Write(place[:])
			h.Write(block)
		}
		start += int64(n)
	}
	return nil
}
