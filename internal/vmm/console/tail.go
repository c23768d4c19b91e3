package console

import (
	"io"
	"io/fs"
	"os"

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

// lastWords is how much Since returns, bytes.
const lastWords = 2 << 10

// Since returns the last bytes of a log that has changed since it was looked at; before is nil if
// there was none.
func Since(path string, before fs.FileInfo) []byte {
	now, err := os.Stat(path)
	if err != nil || before != nil && os.SameFile(before, now) && before.Size() == now.Size() && before.ModTime().Equal(now.ModTime()) {
		return nil
	}
	return Tail(path, lastWords)
}
