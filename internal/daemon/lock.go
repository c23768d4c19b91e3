package daemon

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"banger/internal/fault"
	"banger/internal/flock"
)

// homeLock is held by the one daemon of a home while it runs. The kernel releases it when the
// process ends for any reason. The file names the holder.
type homeLock struct{ f *os.File }

// stopping in the file says that the holder is about to end. A new daemon then waits for it.
const stopping = "stopping"

// killedGrace is the time for the kernel to release the lock of a killed daemon, whose memory it
// frees first.
const killedGrace = 500 * time.Millisecond

// lockHome takes the lock at path. If another daemon holds it and is not stopping, the error is
// fault.Locked.
func lockHome(ctx context.Context, path string) (*homeLock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the home: %w", err)
	}
	if err := awaitLock(ctx, f); err != nil {
		f.Close()
		return nil, err
	}
	l := &homeLock{f: f}
	return l, l.say("")
}

// awaitLock waits for the lock: as long as ctx allows if the holder is stopping, otherwise for
// killedGrace.
func awaitLock(ctx context.Context, f *os.File) error {
	brief, cancel := context.WithTimeout(ctx, killedGrace)
	defer cancel()
	err := flock.Lock(brief, f)
	if err == nil || brief.Err() == nil {
		return err
	}
	pid, leaving := holder(f)
	if !leaving {
		return fault.New(fault.Locked, "another bangerd (process %s) is at work on this home", pid).
			WithHint("Use that one, end it with `banger daemon stop` or kill %s, or set BANGER_HOME to another directory.", pid)
	}
	if err := flock.Lock(ctx, f); err != nil {
		return fault.New(fault.Locked, "the bangerd that is stopping (process %s) does not come to its end: %w", pid, err)
	}
	return nil
}

// holder reads who holds the lock. The file may be empty for a moment.
func holder(f *os.File) (pid string, leaving bool) {
	const most = 64
	data, err := io.ReadAll(io.NewSectionReader(f, 0, most))
	words := strings.Fields(string(data))
	if err != nil || len(words) == 0 {
		return "unknown", false
	}
	return words[0], len(words) > 1 && words[1] == stopping
}

// say writes who holds the lock and the holder's state.
func (l *homeLock) say(state string) error {
	text := strings.TrimSpace(strconv.Itoa(os.Getpid())+" "+state) + "\n"
	if err := l.f.Truncate(0); err != nil {
		return fmt.Errorf("writing the lock file: %w", err)
	}
	if _, err := l.f.WriteAt([]byte(text), 0); err != nil {
		return fmt.Errorf("writing the lock file: %w", err)
	}
	return nil
}

// release releases the lock. The file stays: if it were removed, two daemons could lock two files
// of one name.
func (l *homeLock) release() error { return l.f.Close() }
