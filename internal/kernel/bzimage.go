package kernel

import (
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/therootcompany/xz"
	"github.com/ulikunitz/xz/lzma"

	"banger/internal/fault"
)

// Offsets in an x86 boot sector and setup header (the kernel's Documentation/arch/x86/boot.rst,
// "The Real-Mode Kernel Header").
const (
	offSetupSects    = 0x1f1
	offBootFlag      = 0x1fe
	offMagic         = 0x202
	offProtocol      = 0x206
	offKernelVersion = 0x20e // points to the version text, minus 0x200
	offPayload       = 0x248
	offPayloadLength = 0x24c
	setupHeaderEnd   = 0x250

	minProtocol = 0x0208 // the first with payload_offset (kernel 2.6.26)
	sectorSize  = 512
	maxSetup    = 64 << 10 // setup code has at most 64 sectors
)

// Bounds of an image.
const (
	maxBzImage = 512 << 20
	maxVmlinux = 1 << 30 // with debug information it has 400 to 800 MB
	maxDict    = 128 << 20
)

// bzImage is the content of a compressed x86 kernel.
type bzImage struct {
	version string // "" if the header has none
	payload *io.SectionReader
}

// isBzImage reports whether the file begins like a bzImage.
func isBzImage(r io.ReaderAt) bool {
	var head [setupHeaderEnd]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return false
	}
	return binary.LittleEndian.Uint16(head[offBootFlag:]) == 0xaa55 && string(head[offMagic:offMagic+4]) == "HdrS"
}

// parseBzImage finds the compressed vmlinux in an image of size bytes.
func parseBzImage(r io.ReaderAt, size int64) (bzImage, error) {
	if !isBzImage(r) {
		return bzImage{}, fault.New(fault.Invalid, "not a bzImage: no x86 setup header")
	}
	setup := make([]byte, min(size, maxSetup))
	if _, err := io.ReadFull(io.NewSectionReader(r, 0, size), setup); err != nil {
		return bzImage{}, fmt.Errorf("reading the setup header: %w", err)
	}
	le := binary.LittleEndian
	if p := le.Uint16(setup[offProtocol:]); p < minProtocol {
		return bzImage{}, fault.New(fault.Unsupported, "boot protocol %d.%02d is older than 2.08 (kernel 2.6.26)",
			p>>8, p&0xff)
	}
	sects := int64(setup[offSetupSects])
	if sects == 0 {
		sects = 4 // boot.rst: 0 means 4
	}
	off := (sects+1)*sectorSize + int64(le.Uint32(setup[offPayload:]))
	length := int64(le.Uint32(setup[offPayloadLength:]))
	if length < 8 || off+length > size {
		return bzImage{}, fault.New(fault.Invalid,
			"the compressed kernel at byte %d with %d bytes is not inside the file's %d bytes", off, length, size)
	}
	return bzImage{
		version: setupVersion(setup, int64(le.Uint16(setup[offKernelVersion:]))),
		payload: io.NewSectionReader(r, off, length),
	}, nil
}

// setupVersion returns the first word of the version text: "6.1.0-43-cloud-amd64 (builder@host) #1
// SMP ...".
func setupVersion(setup []byte, pointer int64) string {
	at := pointer + 0x200
	if pointer == 0 || at >= int64(len(setup)) {
		return ""
	}
	text := setup[at:min(int64(len(setup)), at+512)]
	if end := bytes.IndexByte(text, 0); end >= 0 {
		text = text[:end]
	}
	word, _, _ := strings.Cut(string(text), " ")
	if !isVersion(word) {
		return ""
	}
	return word
}

// decompressors are the compressions of a kernel, by their magic numbers (lib/decompress.c). After
// all but gzip the uncompressed size follows in 4 bytes, outside the format (scripts/Makefile.lib,
// size_append).
var decompressors = []struct {
	name, magic string
	sized       bool
	open        func(io.Reader) (io.Reader, error)
}{
	{"gzip", "\x1f\x8b", false, func(r io.Reader) (io.Reader, error) {
		z, err := gzip.NewReader(r)
		if err == nil {
			z.Multistream(false)
		}
		return z, err
	}},
	{"xz", "\xfd7zXZ\x00", true, func(r io.Reader) (io.Reader, error) { return xz.NewReader(r, maxDict) }},
	{"zstd", "\x28\xb5\x2f\xfd", true, func(r io.Reader) (io.Reader, error) {
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxDict))
	}},
	{"lz4", "\x02\x21\x4c\x18", true, func(r io.Reader) (io.Reader, error) { return &lz4Legacy{src: r}, nil }},
	{"bzip2", "BZh", true, func(r io.Reader) (io.Reader, error) { return bzip2.NewReader(r), nil }},
	{"lzma", "\x5d\x00\x00", true, func(r io.Reader) (io.Reader, error) {
		return lzma.ReaderConfig{DictCap: maxDict}.NewReader(r)
	}},
}

// extract writes the vmlinux, of at most limit bytes, to w and returns its compression.
func (b bzImage) extract(w io.Writer, limit int64) (compression string, err error) {
	var magic [6]byte
	if _, err := b.payload.ReadAt(magic[:], 0); err != nil {
		return "", fmt.Errorf("reading the compressed kernel: %w", err)
	}
	if string(magic[:4]) == "\x7fELF" {
		return "none", copyBounded(w, io.NewSectionReader(b.payload, 0, b.payload.Size()), limit)
	}
	for _, d := range decompressors {
		if !bytes.HasPrefix(magic[:], []byte(d.magic)) {
			continue
		}
		length := b.payload.Size()
		if d.sized {
			length -= 4
		}
		r, err := d.open(io.NewSectionReader(b.payload, 0, length))
		if err == nil {
			err = copyBounded(w, r, limit)
		}
		if z, ok := r.(*zstd.Decoder); ok && z != nil {
			z.Close()
		}
		if err != nil {
			return d.name, fault.New(fault.Invalid, "decompressing the kernel (%s): %w", d.name, err)
		}
		return d.name, nil
	}
	return "", fault.New(fault.Unsupported,
		"the kernel's compression, which begins with % x, is not gzip, xz, zstd, lz4, bzip2 or lzma", magic)
}

// copyBounded copies all of r, and fails if it has more than limit bytes.
func copyBounded(w io.Writer, r io.Reader, limit int64) error {
	n, err := io.Copy(w, io.LimitReader(r, limit+1))
	if err != nil {
		return err
	}
	if n > limit {
		return fault.New(fault.Invalid, "more than %d bytes", limit)
	}
	return nil
}

// lz4Legacy reads the legacy frame of lz4, the only one that the kernel uses (lz4_Frame_format.md):
// the magic number, then blocks of 8 MiB, each after its compressed size.
type lz4Legacy struct {
	src     io.Reader
	in, out []byte
	rest    []byte // decoded, not yet read
}

const (
	lz4Magic = 0x184c2102
	lz4Block = 8 << 20
)

func (l *lz4Legacy) Read(p []byte) (int, error) {
	for len(l.rest) == 0 {
		if err := l.block(); err != nil {
			return 0, err
		}
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

func (l *lz4Legacy) block() error {
	var word [4]byte
	if _, err := io.ReadFull(l.src, word[:]); err != nil {
		return err // io.EOF between two blocks is the end
	}
	size := binary.LittleEndian.Uint32(word[:])
	if size == lz4Magic { // at the start, and between concatenated files
		return nil
	}
	if size == 0 || int64(size) > int64(lz4.CompressBlockBound(lz4Block)) {
		return fmt.Errorf("a block of %d bytes", size)
	}
	if l.out == nil {
		l.in, l.out = make([]byte, lz4.CompressBlockBound(lz4Block)), make([]byte, lz4Block)
	}
	if _, err := io.ReadFull(l.src, l.in[:size]); err != nil {
		return errors.Join(io.ErrUnexpectedEOF, err)
	}
	n, err := lz4.UncompressBlock(l.in[:size], l.out)
	if err != nil {
		return err
	}
	l.rest = l.out[:n]
	return nil
}
