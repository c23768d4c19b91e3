package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"time"
)

// followEvery is how often a followed file is looked at. A watch would need a file descriptor of its own and could not follow a file that is
// replaced any better.
const followEvery = 250 * time.Millisecond

// follower reads a file past its end as it grows. A file that was replaced or cut, as logs are, is read from its start.
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

// renew opens the file anew when another one has its name now, and goes to the start of one that has become shorter.
func (r *follower) renew() error {
	have, err := r.f.Stat()
	if err != nil {
		return err
	}
	named, err := os.Stat(r.path)
	if err != nil {
		return nil // between two files; the next look finds it
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

// seekTail goes to where the last lines of a file begin; 0 lines stand for all.
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
			chunk = bytes.TrimSuffix(chunk, []byte("\n")) // the last line's own end
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
