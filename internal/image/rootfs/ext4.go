package rootfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"

	"banger/internal/disk"
	"banger/internal/model"
)

// blockSize is that of file systems written here, and the unit of holes in their files.
const blockSize = 4096

// writeExt4 writes a clean tar stream (see tarWriter) to f as a read-only ext4 file system without
// a journal and without free space. Blocks of zeros become holes.
func writeExt4(f *os.File, stream io.Reader, limit model.Bytes, room *disk.Room) (err error) {
	defer func() {
		// The writer panics on impossible input, and its input is hostile.
		if p := recover(); p != nil {
			err = fmt.Errorf("writing ext4: panic: %v", p)
		}
	}()
	// Inodes, directories and bitmaps are added to the files. This leaves room for group
	// descriptors: 4 KiB per 16 GiB.
	out := &sparseFile{f: f, max: int64(limit + limit/8 + 16*model.GiB), limit: limit, room: room}
	if err := tar2ext4.ConvertTarToExt4(stream, out, tar2ext4.MaximumDiskSize(out.max)); err != nil {
		return fmt.Errorf("writing ext4: %w", err)
	}
	if err := f.Truncate(out.end); err != nil {
		return fmt.Errorf("writing ext4: %w", err)
	}
	return padInodeBitmaps(f)
}

// sparseFile leaves a hole where zeros are the first to be written.
type sparseFile struct {
	f        *os.File
	pos, end int64
	max      int64
	limit    model.Bytes // for errors
	room     *disk.Room
}

var zeroBlock = make([]byte, blockSize)

func (s *sparseFile) Write(p []byte) (int, error) {
	if s.pos+int64(len(p)) > s.max {
		return 0, TooLarge("the image", s.limit)
	}
	done := 0
	for done < len(p) {
		n := s.hole(p[done:])
		if n == 0 {
			n = s.data(p[done:])
			if err := s.room.Add(n); err != nil {
				return done, err
			}
			if _, err := s.f.WriteAt(p[done:done+n], s.pos); err != nil {
				return done, err
			}
		}
		s.pos += int64(n)
		s.end = max(s.end, s.pos)
		done += n
	}
	return done, nil
}

// hole returns how many of p's first bytes need not be written.
func (s *sparseFile) hole(p []byte) int {
	n := 0
	for s.pos >= s.end && s.pos%blockSize == 0 && len(p)-n >= blockSize && bytes.Equal(p[n:n+blockSize], zeroBlock) {
		n += blockSize
	}
	return n
}

// data returns how many of p's first bytes, at least one, to write at once.
func (s *sparseFile) data(p []byte) int {
	n := min(len(p), int(blockSize-s.pos%blockSize))
	for len(p)-n >= blockSize && !bytes.Equal(p[n:n+blockSize], zeroBlock) {
		n += blockSize
	}
	if len(p)-n < blockSize {
		n = len(p)
	}
	return n
}

func (s *sparseFile) Read(p []byte) (int, error) {
	n, err := s.f.ReadAt(p, s.pos)
	s.pos += int64(n)
	return n, err
}

func (s *sparseFile) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += s.pos
	case io.SeekEnd:
		offset += s.end
	}
	if offset < 0 {
		return 0, errors.New("seeking before the start")
	}
	s.pos = offset
	return offset, nil
}

// padInodeBitmaps sets the unused bits at the end of each inode bitmap. ext4 and e2fsck require
// them set, but the writer does not. Offsets: Linux,
// Documentation/filesystems/ext4/{super,group_descr}.rst.
func padInodeBitmaps(f *os.File) error {
	super := make([]byte, 1024)
	if _, err := f.ReadAt(super, 1024); err != nil {
		return fmt.Errorf("reading the superblock: %w", err)
	}
	blocks := binary.LittleEndian.Uint32(super[0x4:])
	perGroup, inodesPerGroup := binary.LittleEndian.Uint32(super[0x20:]), binary.LittleEndian.Uint32(super[0x28:])
	groups := (blocks + perGroup - 1) / perGroup
	descriptors := make([]byte, groups*32)
	if _, err := f.ReadAt(descriptors, blockSize); err != nil {
		return fmt.Errorf("reading the group descriptors: %w", err)
	}
	// A group of the writer has a multiple of 16 inodes.
	padding := bytes.Repeat([]byte{0xff}, blockSize-int(inodesPerGroup/8))
	for g := range groups {
		bitmap := int64(binary.LittleEndian.Uint32(descriptors[g*32+4:])) * blockSize
		if _, err := f.WriteAt(padding, bitmap+int64(inodesPerGroup/8)); err != nil {
			return fmt.Errorf("padding an inode bitmap: %w", err)
		}
	}
	return nil
}
