package logfile

import (
	"bytes"
	"io"
	"os"
)

// SeekTail seeks to the first of the last lines of a file; 0 means all lines.
func SeekTail(f *os.File, lines int) error {
	if lines <= 0 {
		return nil
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for at := end; at > 0; {
		n := min(at, int64(len(buf)))
		at -= n
		if _, err := f.ReadAt(buf[:n], at); err != nil {
			return err
		}
		chunk := buf[:n]
		if at+n == end {
			chunk = bytes.TrimSuffix(chunk, []byte("\n")) // the end of the last line
		}
		for i := bytes.LastIndexByte(chunk, '\n'); i >= 0; i = bytes.LastIndexByte(chunk[:i], '\n') {
			if lines--; lines == 0 {
				_, err := f.Seek(at+int64(i)+1, io.SeekStart)
				return err
			}
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}
