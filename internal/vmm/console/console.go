// Package console keeps the newest bytes of what a guest writes to its console, in two files.
//
// When the log has grown to half of its bound, it is renamed: the new name has ".1" at the end. It
// replaces the older file of that name, and a new log begins. So both files together never exceed
// the bound, and no byte is rewritten. A follower (also `tail -F`) sees every byte in order: it
// reads its file to the end and continues with the new one at offset 0.
//
// The bytes come from the guest. They are hostile, and not safe for a terminal.
package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"banger/internal/regular"
)

// Old is the name of the older half of the log at path.
func Old(path string) string { return path + ".1" }

// minMax is the smallest bound of a log. It keeps every log useful.
const minMax = 8 << 10

// Log is an open log. It is safe for concurrent use.
type Log struct {
	path string
	half int64

	mu   sync.Mutex
	f    *os.File
	size int64
}

// Open opens the log at path for appending. It never grows beyond limit bytes (at least 8 KiB).
func Open(path string, limit int64) (*Log, error) {
	l := &Log{path: path, half: max(limit, minMax) / 2}
	if err := l.openLocked(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *Log) openLocked() error {
	f, err := regular.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening the console log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("opening the console log: %w", err), f.Close())
	}
	l.f, l.size = f, info.Size()
	return nil
}

// Write appends p. Only the newest bytes may stay.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := 0; n < len(p); {
		if l.size >= l.half {
			if err := l.turnLocked(); err != nil {
				return n, err
			}
		}
		k, err := l.f.Write(p[n:min(int64(len(p)), int64(n)+l.half-l.size)])
		l.size += int64(k)
		n += k
		if err != nil {
			return n, fmt.Errorf("writing the console log: %w", err)
		}
	}
	return len(p), nil
}

func (l *Log) turnLocked() error {
	if err := os.Rename(l.path, Old(l.path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("renaming the console log: %w", err)
	}
	_ = l.f.Close()
	return l.openLocked()
}

// Close closes the log.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}

// Remove removes a log that no one has open. If it does not exist, this is no error.
func Remove(path string) error {
	var errs []error
	for _, p := range []string{Old(path), path} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("removing the console log: %w", err))
		}
	}
	return errors.Join(errs...)
}

// followPoll is how often a follower looks for new bytes.
const followPoll = 100 * time.Millisecond

// Follow copies the log at path to w, oldest byte first, and then new bytes until ctx ends. Then it
// copies the rest and returns nil. A log that does not exist yet is empty. A follower loses bytes
// only if it falls behind by the whole log.
func Follow(ctx context.Context, path string, w io.Writer) error {
	r := follower{path: path}
	defer r.close()
	ticker := time.NewTicker(followPoll)
	defer ticker.Stop()
	for ended := false; ; {
		if err := r.catchUp(w); err != nil || ended {
			return err
		}
		select {
		case <-ctx.Done():
			ended = true
		case <-ticker.C:
		}
	}
}

type follower struct {
	path string
	f    *os.File // the file that is read; nil until there is one
}

func (r *follower) close() {
	if r.f != nil {
		_ = r.f.Close()
		r.f = nil
	}
}

// catchUp copies all unread bytes.
func (r *follower) catchUp(w io.Writer) error {
	for {
		// Before reading: a file that is no longer the current one gets no more bytes.
		current, err := stat(r.path)
		if err != nil || current == nil && r.f == nil {
			return err
		}
		if r.f == nil {
			if err := r.open(Old(r.path), r.path); err != nil {
				return err
			}
		}
		if _, err := io.Copy(w, r.f); err != nil {
			return fmt.Errorf("copying the console log: %w", err)
		}
		if current == nil { // it was removed or is being renamed; the open file has the last bytes
			return nil
		}
		mine, err := r.f.Stat()
		if err != nil || os.SameFile(mine, current) {
			return err
		}
		old, err := stat(Old(r.path))
		if err != nil {
			return err
		}
		next := r.path
		if old != nil && !os.SameFile(mine, old) {
			next = Old(r.path) // the log was renamed twice since
		}
		r.close()
		if err := r.open(next, r.path); err != nil {
			return err
		}
	}
}

// open opens the first of the paths that exists.
func (r *follower) open(paths ...string) (err error) {
	for _, p := range paths {
		if r.f, err = regular.Open(p); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("reading the console log: %w", err)
	}
	return nil
}

// stat is os.Stat, but it returns nil if the file does not exist.
func stat(path string) (fs.FileInfo, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("reading the console log: %w", err)
	}
	return info, nil
}
