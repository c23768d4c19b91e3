// Package initramfs makes the archives that a guest's kernel unpacks as its first root: "newc" cpio
// archives (Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's source).
//
// The archives are a pure function of their inputs: no times, no owners, inode numbers in order.
// Equal inputs give equal bytes. So a file that is named by the hash of its inputs is made once and
// shared by every start.
package initramfs

import (
	"fmt"
	"io"
	"math"
	"path"
	"strings"
)

// File types of a cpio entry's mode; the same numbers as in stat(2).
const (
	typeDir  = 0o040000
	typeChar = 0o020000
	typeFile = 0o100000
)

const (
	headerSize = 110  // 6 bytes of magic and 13 fields of 8 hex digits
	maxName    = 4096 // PATH_MAX: the kernel skips entries with longer names
	trailer    = "TRAILER!!!"

	// blockSize is the unit to which an archive is padded. The kernel requires 4 bytes between
	// archives. 512 is what cpio(1) writes and suits readers of block devices.
	blockSize = 512
)

// Writer writes one newc archive. After an error every further call returns that error.
type Writer struct {
	w   io.Writer
	ino uint32
	off int64
	err error
}

// NewWriter returns a Writer to w. The archive is complete after Close.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Dir adds a directory. Its parents must come earlier: the kernel does not make them.
func (w *Writer) Dir(name string, perm uint32) error {
	return w.entry(name, entry{mode: typeDir | perm&0o7777, links: 2}, nil)
}

// File adds a regular file with exactly size bytes of r. Fewer bytes are an error.
func (w *Writer) File(name string, perm uint32, size int64, r io.Reader) error {
	return w.entry(name, entry{mode: typeFile | perm&0o7777, links: 1, size: size}, r)
}

// CharDevice adds a character device.
func (w *Writer) CharDevice(name string, perm, major, minor uint32) error {
	return w.entry(name, entry{mode: typeChar | perm&0o7777, links: 1, major: major, minor: minor}, nil)
}

// Close ends the archive. It does not close the underlying writer.
func (w *Writer) Close() error {
	w.ino = 0
	w.header(trailer, entry{links: 1})
	w.pad(blockSize)
	return w.err
}

type entry struct {
	mode, links  uint32
	size         int64
	major, minor uint32
}

func (w *Writer) entry(name string, e entry, r io.Reader) error {
	if w.err != nil {
		return w.err
	}
	if name == "" || path.IsAbs(name) || path.Clean(name) != name || name == ".." || strings.HasPrefix(name, "../") ||
		strings.ContainsRune(name, 0) || len(name) >= maxName || name == trailer {
		return w.fail("adding to an initramfs: %.80q is not a clean relative path", name)
	}
	if e.size < 0 || e.size > math.MaxUint32 {
		return w.fail("adding %s to an initramfs: %d bytes do not fit the format's 32 bits", name, e.size)
	}
	w.ino++
	w.header(name, e)
	if r != nil && w.err == nil {
		n, err := io.CopyN(w.w, r, e.size)
		w.off += n
		if err != nil {
			return w.fail("adding %s to an initramfs, byte %d of %d: %w", name, n, e.size, err)
		}
	}
	w.pad(4)
	return w.err
}

// header writes the header and name of an entry. Owner, times and device are zero: see the package
// comment.
func (w *Writer) header(name string, e entry) {
	w.write(fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		w.ino, e.mode, 0, 0, e.links, 0, e.size, 0, 0, e.major, e.minor, len(name)+1, 0, name))
	w.pad(4)
}

func (w *Writer) pad(to int64) {
	if rest := w.off % to; rest != 0 {
		w.write(string(make([]byte, to-rest)))
	}
}

func (w *Writer) write(s string) {
	if w.err != nil {
		return
	}
	n, err := io.WriteString(w.w, s)
	w.off += int64(n)
	if err != nil {
		w.err = fmt.Errorf("writing an initramfs: %w", err)
	}
}

func (w *Writer) fail(format string, args ...any) error {
	w.err = fmt.Errorf(format, args...)
	return w.err
}
