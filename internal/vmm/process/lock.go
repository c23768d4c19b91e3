package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"banger/internal/fault"
	"banger/internal/flock"
)

// LockFD is the descriptor of the lock file in a VMM: the first after standard error.
const LockFD = 3

// Lock opens and locks a file for a process to be started, which inherits the lock as LockFD. From
// the fork on, the file is locked as long as the process or a child of it lives (flock(2)). So a
// free lock proves that there is no such process. If the lock is held, the error is fault.Locked.
func Lock(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("opening the lock: %w", err)
		}
		free, err := flock.TryLock(f)
		if err == nil && !free {
			err = fault.New(fault.Locked, "locking %s: a machine already runs here", path)
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		// Someone may have removed the file after it was opened and before it was locked. Then no
		// one else can see this lock.
		if same(f, path) {
			return f, nil
		}
		_ = f.Close()
	}
}

func same(f *os.File, path string) bool {
	a, errA := f.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// holderPoll is how often Holder looks for a process between its fork and the moment when its
// descriptors are in place. On an idle host that takes well under a millisecond.
const holderPoll = 10 * time.Millisecond

// Holder finds the process that inherited the lock file at path. If the lock is free, or the file
// does not exist, there is no such process: the error is fault.NotFound. Until ctx ends, it waits
// for a process that is being made.
func Holder(ctx context.Context, path string) (ID, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return ID{}, fault.New(fault.NotFound, "nothing was started with %s", path)
	} else if err != nil {
		return ID{}, fmt.Errorf("opening the lock: %w", err)
	}
	defer f.Close()
	want, err := f.Stat()
	if err != nil {
		return ID{}, fmt.Errorf("looking at the lock: %w", err)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ID{}, fmt.Errorf("looking for the process that holds %s: %w", path, context.Cause(ctx))
		case <-timer.C:
			timer.Reset(holderPoll)
		}
		if free, err := flock.TryLock(f); err != nil {
			return ID{}, err
		} else if free {
			return ID{}, fault.New(fault.NotFound, "nothing that was started with %s runs", path)
		}
		if id, err := scan(want); err == nil {
			return id, nil
		} else if fault.KindOf(err) != fault.NotFound {
			return ID{}, err
		}
	}
}

// scan finds the process whose LockFD is this file. It skips processes of other users.
func scan(want os.FileInfo) (ID, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return ID{}, fmt.Errorf("listing processes: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		got, err := os.Stat(filepath.Join("/proc", e.Name(), "fd", strconv.Itoa(LockFD)))
		if err != nil || !os.SameFile(want, got) {
			continue
		}
		if id, err := Identify(pid); err == nil {
			return id, nil
		}
	}
	return ID{}, fault.New(fault.NotFound, "no process has the lock open")
}
