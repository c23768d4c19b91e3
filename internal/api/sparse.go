package api

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
)

// sparseHeader is the length of a header in the sparse form, bytes: an offset and a length, each
// as eight bytes in network order. The data of that length follows. A length of 0 ends the form;
// its offset is the file's size.
const sparseHeader = 16

// PackSparse returns the size bytes of a file in the sparse form: its data without its holes.
func PackSparse(f *os.File, size int64) io.ReadCloser {
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(packSparse(pw, f, size)) }()
	return pr
}

func packSparse(w io.Writer, f *os.File, size int64) error {
	header := func(at, n int64) error {
		buf := binary.BigEndian.AppendUint64(make([]byte, 0, sparseHeader), uint64(at))
		_, err := w.Write(binary.BigEndian.AppendUint64(buf, uint64(n)))
		return err
	}
	for at := int64(0); at < size; {
		start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // a hole until the end
			break
		}
		if err != nil {
			return fmt.Errorf("finding the data of %s: %w", f.Name(), err)
		}
		end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("finding the holes of %s: %w", f.Name(), err)
		}
		if end = min(end, size); end <= start {
			break
		}
		if err := header(start, end-start); err != nil {
			return err
		}
		if n, err := io.Copy(w, io.NewSectionReader(f, start, end-start)); err != nil {
			return err
		} else if n < end-start {
			return fault.New(fault.Invalid, "%s changes while it is read", f.Name())
		}
		at = end
	}
	return header(size, 0)
}

// UnpackSparse writes what PackSparse made to an empty file of at most limit bytes.
func UnpackSparse(f *os.File, r io.Reader, limit int64) error {
	var end int64 // of the data so far
	for {
		var head [sparseHeader]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return badSparse(err)
		}
		at, n := binary.BigEndian.Uint64(head[:8]), binary.BigEndian.Uint64(head[8:])
		switch {
		case at < uint64(end):
			return fault.New(fault.Invalid, "the sparse file is not in order at %d", at)
		case at > uint64(limit) || n > uint64(limit)-at:
			return fault.New(fault.Invalid, "the sparse file is larger than %d bytes", limit)
		case n == 0:
			if _, err := io.ReadFull(r, head[:1]); err != io.EOF {
				return fault.New(fault.Invalid, "the sparse file has bytes after its end")
			}
			return f.Truncate(int64(at))
		}
		if _, err := io.CopyN(io.NewOffsetWriter(f, int64(at)), r, int64(n)); err != nil {
			return badSparse(err)
		}
		end = int64(at + n)
	}
}

// badSparse is the error of a sparse form that is cut off; other errors are returned as they are.
func badSparse(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fault.New(fault.Invalid, "the sparse file is cut off")
	}
	return err
}
