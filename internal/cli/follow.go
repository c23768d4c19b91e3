package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"time"
)

// followEvery is how often a followed file is read. inotify would need a file descriptor of its own
// and would not follow a replaced file any better.
const followEvery = 250 * time.Millisecond

// follower reads a file as it grows. If the file is replaced or truncated, as logs are, it reads
// from the start again.
type follower struct {
	ctx  context.Context
	path string
	f    *os.File
}

func (r *follower) Read(p []byte) (int, error) {
	for {
		n, err := r.f.Read(p)
		if n > 0 || err != nil && !errors.Is(err, io.EOF) {
			return n, err
		}
		if err := r.renew(); err != nil {
			return 0, err
		}
		select {
		case <-r.ctx.Done():
			return 0, io.EOF
		case <-time.After(followEvery):
		}
	}
}

// renew opens the file again if another file has its name now. It goes to the start of a file that
// has become shorter.
func (r *follower) renew() error {
	have, err := r.f.Stat()
	if err != nil {
		return err
	}
	named, err := os.Stat(r.path)
	if err != nil {
		return nil // between two files; the next attempt finds the new one
	}
	if !os.SameFile(have, named) {
		f, err := os.Open(r.path)
		if err != nil {
			return nil
		}
		r.f.Close()
		r.f = f
		return nil
	}
	at, err := r.f.Seek(0, io.SeekCurrent)
	if err == nil && have.Size() < at {
		_, err = r.f.Seek(0, io.SeekStart)
	}
	return err
}

// seekTail seeks to the first of the last lines of a file; 0 means all lines.
func seekTail(f *os.File, lines int) error {
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
