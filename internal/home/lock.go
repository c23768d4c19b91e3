package home

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"banger/internal/fault"
	"banger/internal/flock"
	"banger/internal/paths"
	"banger/internal/regular"
)

// lock is the lock of one root. The file names the holder.
type lock struct{ f *os.File }

// stopping in the file says that the holder is about to end. A new daemon then waits for it.
const stopping = "stopping"

// killedGrace is the time for the kernel to release the lock of a killed daemon, whose memory it
// frees first.
const killedGrace = 500 * time.Millisecond

// acquire takes the lock of a root. If another daemon holds it and is not stopping, the error is of
// kind fault.Locked.
func acquire(ctx context.Context, root string) (*lock, error) {
	for {
		f, err := openLock(paths.LockIn(root))
		if err != nil {
			return nil, Unusable(fault.Denied, fmt.Errorf("locking %s: %w", root, err))
		}
		if err := awaitLock(ctx, f, root); err != nil {
			f.Close()
			return nil, err
		}
		l := &lock{f: f}
		if l.isCurrent() {
			err := l.say("")
			if err == nil || l.sayNothing() == nil { // a full disk is no reason not to start
				return l, nil
			}
			f.Close()
			return nil, err
		}
		f.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
}

// isCurrent reports whether the root still has this lock file. It may have been removed, alone or
// with the root.
func (l *lock) isCurrent() bool {
	named, err := os.Lstat(l.f.Name())
	if err != nil {
		return false
	}
	held, err := l.f.Stat()
	return err == nil && os.SameFile(named, held)
}

// openLock opens a lock file. Roots that were copied by hard links must not share a lock, so a file
// with several names is replaced.
func openLock(path string) (*os.File, error) {
	const flags = os.O_CREATE | os.O_RDWR | syscall.O_NOFOLLOW
	f, err := regular.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Nlink < 2 {
		return f, nil
	}
	f.Close()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return regular.OpenFile(path, flags, 0o600)
}

// awaitLock waits for the lock: as long as ctx allows if the holder is stopping, otherwise for
// killedGrace.
func awaitLock(ctx context.Context, f *os.File, root string) error {
	brief, cancel := context.WithTimeout(ctx, killedGrace)
	defer cancel()
	err := flock.Lock(brief, f)
	if err == nil || brief.Err() == nil {
		return err
	}
	pid, leaving := holder(f)
	if !leaving {
		return busy(pid, root)
	}
	if err := flock.Lock(ctx, f); err != nil {
		return fault.New(fault.Locked, "the bangerd that is stopping (process %s) does not come to its end: %w", pid, err)
	}
	return nil
}

// busy is the error of a root that another daemon holds. The mark names that daemon's home.
func busy(pid, root string) error {
	of := ""
	if m, err := readMark(root); err == nil && m.ID != "" {
		of = " for the home whose state directory is " + m.State
	}
	return fault.New(fault.Locked, "another bangerd (process %s) is at work in %s%s", pid, root, of).
		WithHint("Use that one, end it with `banger daemon stop` or kill %s, or set BANGER_HOME to another directory.", pid)
}

// holder reads who holds the lock. The file may be empty for a moment, or while the disk is full.
func holder(f *os.File) (pid string, leaving bool) {
	const most = 64
	data, err := io.ReadAll(io.NewSectionReader(f, 0, most))
	words := strings.Fields(string(data))
	if err != nil || len(words) == 0 {
		return "unknown", false
	}
	return words[0], len(words) > 1 && words[1] == stopping
}

// Process is the process of a home's daemon.
type Process struct {
	PID      int // 0 if there is none
	Stopping bool
}

// Holder returns the process that holds the home's lock. It asks the lock, so a file that a killed
// daemon left names nobody.
func Holder(layout paths.Layout) (Process, error) {
	f, err := regular.Open(paths.LockIn(layout.State))
	if errors.Is(err, fs.ErrNotExist) {
		return Process{}, nil
	}
	if err != nil {
		return Process{}, fmt.Errorf("looking for the home's daemon: %w", err)
	}
	defer f.Close()
	if free, err := flock.TryShared(f); free || err != nil {
		return Process{}, err
	}
	name, leaving := holder(f)
	pid, err := strconv.Atoi(name)
	if err != nil || pid <= 0 {
		return Process{}, fault.New(fault.Unavailable, "the lock %s is held, but it names no process", f.Name()).
			WithHint("Try again. If this lasts, look for a bangerd with: fuser %s", f.Name())
	}
	return Process{PID: pid, Stopping: leaving}, nil
}

// say writes who holds the lock and the holder's state. All texts have the same size and replace
// each other in place, which needs no space on most filesystems.
func (l *lock) say(state string) error {
	text := fmt.Sprintf("%-10d %-8s\n", os.Getpid(), state)
	if _, err := l.f.WriteAt([]byte(text), 0); err != nil {
		return fmt.Errorf("writing the lock file: %w", err)
	}
	return nil
}

// sayNothing empties the lock file, so that it does not name an earlier holder.
func (l *lock) sayNothing() error { return l.f.Truncate(0) }

// release releases the lock. The file stays: if it were removed, two daemons could lock two files
// of one name.
func (l *lock) release() error { return l.f.Close() }
