package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"banger/internal/disk"
)

// chunkSize is the stretch of a file that is read, summed and exported as one. It is part of the format.
const chunkSize = 256 << 10

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli) // CRC-32C (RFC 3720, section 12.1): processors have an instruction for it
	zeros      [chunkSize]byte                     // never written
)

// chunks calls visit for each chunk of the first size bytes of f, in order, that holds anything but zeros. Chunks begin at multiples of
// chunkSize; the last one ends with the file. The data is visit's until it returns. Which blocks of the file are allocated makes no
// difference: a copy with other holes has the same chunks.
func chunks(ctx context.Context, f *os.File, size int64, visit func(offset int64, data []byte) error) error {
	buf := make([]byte, chunkSize)
	at := int64(-1) // the chunk in buf
	flush := func() error {
		if at < 0 {
			return nil
		}
		data := buf[:min(chunkSize, size-at)]
		if isZero(data) {
			return nil
		}
		return visit(at, data)
	}
	for e, err := range disk.Extents(f, size) {
		if err != nil {
			return err
		}
		for pos := e.Start; pos < e.End; {
			base := pos - pos%chunkSize
			end := min(base+chunkSize, e.End)
			if base != at {
				if err := flush(); err != nil {
					return err
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				at = base
				if end-pos < chunkSize {
					clear(buf)
				}
			}
			if err := readAt(f, buf[pos-base:end-base], pos); err != nil {
				return err
			}
			pos = end
		}
	}
	return flush()
}

// isZero looks at no more than chunkSize bytes.
func isZero(data []byte) bool { return bytes.Equal(data, zeros[:len(data)]) }

func readAt(f *os.File, p []byte, offset int64) error {
	if _, err := f.ReadAt(p, offset); errors.Is(err, io.EOF) {
		return fmt.Errorf("reading %s: %w", f.Name(), io.ErrUnexpectedEOF)
	} else if err != nil {
		return err
	}
	return nil
}

// summer takes the sum of a file by its chunks: the SHA-256 over each one's offset (8 bytes, big endian) and CRC-32C (4 bytes), in order.
// So it costs what a CRC does, finds whatever 32 bits per chunk find, and is the same for copies with other holes. It is against
// accidents: whoever wants to can make another file of the same sum.
type summer struct {
	list []byte
}

func (s *summer) add(offset int64, data []byte) {
	s.list = binary.BigEndian.AppendUint64(s.list, uint64(offset))
	s.list = binary.BigEndian.AppendUint32(s.list, crc32.Checksum(data, castagnoli))
}

func (s *summer) sum() string {
	sum := sha256.Sum256(s.list)
	return hex.EncodeToString(sum[:])
}

// sumFile takes the sum of the first size bytes of f.
func sumFile(ctx context.Context, f *os.File, size int64) (string, error) {
	var s summer
	err := chunks(ctx, f, size, func(offset int64, data []byte) error {
		s.add(offset, data)
		return nil
	})
	if err != nil {
		return "", err
	}
	return s.sum(), nil
}

// hashFile takes the SHA-256 of the first size bytes of f, which has no more than maxDevice.
func hashFile(f *os.File, size int64) (string, error) {
	h := sha256.New()
	if n, err := io.Copy(h, io.NewSectionReader(f, 0, size)); err != nil {
		return "", err
	} else if n != size {
		return "", fmt.Errorf("reading %s: %w", f.Name(), io.ErrUnexpectedEOF)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
