package console

import (
	"io"

	"banger/internal/regular"
)

// Tail returns the last bytes of a log, at most max; none if there is no log.
func Tail(path string, max int64) []byte {
	f, err := regular.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil
	}
	tail := make([]byte, min(size, max))
	n, _ := f.ReadAt(tail, size-int64(len(tail)))
	return tail[:n]
}
