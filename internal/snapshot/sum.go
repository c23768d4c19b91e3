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

// chunkSize is the unit that is read, summed and exported. It is part of the format.
const chunkSize = 256 << 10

var (
	// CRC-32C (RFC 3720, section 12.1), for which processors have an instruction.
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	zeros      [chunkSize]byte // constant
)

// chunks calls visit, in order, for each chunk of the first size bytes of f that is not all zero.
// Chunks start at multiples of chunkSize. visit must not keep the data. Holes make no difference,
// so a copy with other holes has the same chunks.
func chunks(ctx context.Context, f *os.File, size int64, visit func(offset int64, data []byte) error) error {
	buf := make([]byte, chunkSize)
	at := int64(-1) // the offset of the chunk in buf
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

// isZero reports whether data, of at most chunkSize bytes, is all zero.
func isZero(data []byte) bool { return bytes.Equal(data, zeros[:len(data)]) }

func readAt(f *os.File, p []byte, offset int64) error {
	if _, err := f.ReadAt(p, offset); errors.Is(err, io.EOF) {
		return fmt.Errorf("reading %s: %w", f.Name(), io.ErrUnexpectedEOF)
	} else if err != nil {
		return err
	}
	return nil
}

// summer takes the sum of a file: the SHA-256 over each chunk's offset (8 bytes, big endian) and
// CRC-32C (4 bytes), in order. It is as fast as a CRC and does not depend on holes. It finds
// accidents only: somebody can make another file with the same sum.
type summer struct {
	list []byte
	// strong is the list for the digest, which has each chunk's SHA-256 instead; nil without one.
	strong []byte
}

func (s *summer) add(offset int64, data []byte) {
	s.list = binary.BigEndian.AppendUint64(s.list, uint64(offset))
	s.list = binary.BigEndian.AppendUint32(s.list, crc32.Checksum(data, castagnoli))
	if s.strong != nil {
		hash := sha256.Sum256(data)
		s.strong = append(binary.BigEndian.AppendUint64(s.strong, uint64(offset)), hash[:]...)
	}
}

// sums are the sum of a file and, if it was wanted, the digest.
type sums struct{ sum, digest string }

func (s *summer) sum() string {
	sum := sha256.Sum256(s.list)
	return hex.EncodeToString(sum[:])
}

// sumFile returns the sums of the first size bytes of f.
func sumFile(ctx context.Context, f *os.File, size int64, digest bool) (sums, error) {
	var s summer
	if digest {
		s.strong = binary.BigEndian.AppendUint64(nil, uint64(size))
	}
	err := chunks(ctx, f, size, func(offset int64, data []byte) error {
		s.add(offset, data)
		return nil
	})
	if err != nil {
		return sums{}, err
	}
	found := sums{sum: s.sum()}
	if digest {
		strong := sha256.Sum256(s.strong)
		found.digest = hex.EncodeToString(strong[:])
	}
	return found, nil
}

// hashFile returns the SHA-256 of the first size bytes of f, which is at most maxDevice long.
func hashFile(f *os.File, size int64) (string, error) {
	h := sha256.New()
	if n, err := io.Copy(h, io.NewSectionReader(f, 0, size)); err != nil {
		return "", err
	} else if n != size {
		return "", fmt.Errorf("reading %s: %w", f.Name(), io.ErrUnexpectedEOF)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
