// Package logfile reads the last lines of a log and follows it as it grows.
package logfile

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"banger/internal/regular"
)

// followEvery is how often a followed file is read. inotify would need a file descriptor of its own
// and would not follow a replaced file any better.
const followEvery = 250 * time.Millisecond

// Follow returns a reader of a file as it grows, until ctx ends. If the file is replaced or
// truncated, as logs are, it reads from the start again. It closes a file that was replaced.
func Follow(ctx context.Context, path string, f *os.File) io.Reader {
	return &follower{ctx: ctx, path: path, f: f}
}

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
		f, err := regular.Open(r.path)
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
