package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
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

// Holds reports whether the process was started with the lock file at path: see holds. If the
// process has ended, the answer means nothing.
func (p *Process) Holds(path string) (bool, error) { return holds(p.id.PID, path) }

// holds reports whether a process was started with the lock file at path: it works in the lock's
// directory, which a confined program cannot leave, or has the lock. A program that was taken over
// may have closed the lock, and one that an older version started works elsewhere.
func holds(pid int, path string) (bool, error) {
	if worksIn(pid, filepath.Dir(path)) {
		return true, nil
	}
	return inherited(pid, path)
}

// worksIn reports whether dir is the working directory of a process, or was before dir was removed.
// Its threads share the directory. The first of them has none any more if it has ended alone.
func worksIn(pid int, dir string) bool {
	links, _ := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task", "*", "cwd"))
	for _, link := range links {
		if name, err := os.Readlink(link); err == nil {
			return sameFile(link, dir) || name == real(dir)+deletedMark
		}
	}
	return false
}

// inherited reports whether a process has the lock file at path, or one that was there and was
// removed. In a copy made of hard links, another file has the same inode. So a file with several
// names is known by its directory, which the kernel's name of the open file leads to.
func inherited(pid int, path string) (bool, error) {
	link := lockOf(pid)
	open, err := os.Stat(link)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("looking at the lock of process %d: %w", pid, err)
	}
	name, err := os.Readlink(link)
	if err != nil {
		return false, fmt.Errorf("looking at the lock of process %d: %w", pid, err)
	}
	if there, err := os.Stat(path); err == nil && os.SameFile(there, open) {
		st, ok := open.Sys().(*syscall.Stat_t)
		return ok && st.Nlink == 1 || sameFile(filepath.Dir(name), filepath.Dir(path)), nil
	}
	return name == real(path)+deletedMark, nil
}

// lockOf is the path of a process's lock file, whatever its name is.
func lockOf(pid int) string {
	return filepath.Join("/proc", strconv.Itoa(pid), "fd", strconv.Itoa(LockFD))
}

func sameFile(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

// real returns a path without symbolic links, of which the last parts may not exist.
func real(path string) string {
	for dir, rest := path, ""; ; dir, rest = filepath.Dir(dir), filepath.Join(filepath.Base(dir), rest) {
		if found, err := filepath.EvalSymlinks(dir); err == nil {
			return filepath.Join(found, rest)
		} else if dir == filepath.Dir(dir) {
			return path
		}
	}
}

// holderPoll is how often Holder looks for a process between its fork and the moment when its
// descriptors are in place. On an idle host that takes well under a millisecond.
const holderPoll = 10 * time.Millisecond

// Holder finds the process that was started with the lock file at path, and waits for one that is
// being made. If there is none, the error is fault.NotFound. If only a process of another directory
// has the lock, the error is fault.WrongState.
func Holder(ctx context.Context, path string) (ID, error) { return holder(ctx, path, scan) }

// holder is Holder, which finds the process by look. A process that just ends has the lock's file
// for a moment without the rest. So another directory's process counts when it is found twice.
func holder(ctx context.Context, path string, look func(want os.FileInfo, path string) (ID, error)) (ID, error) {
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
	for seen := false; ; {
		select {
		case <-ctx.Done():
			return ID{}, fmt.Errorf("looking for the process that holds %s: %w", path, context.Cause(ctx))
		case <-timer.C:
			timer.Reset(holderPoll)
		}
		free, err := flock.TryLock(f)
		if err != nil {
			return ID{}, err
		}
		id, err := look(want, path)
		switch {
		case err == nil:
			return id, nil
		case fault.KindOf(err) == fault.WrongState && !seen:
			seen = true
		case fault.KindOf(err) != fault.NotFound:
			return ID{}, err
		case free:
			return ID{}, fault.New(fault.NotFound, "nothing that was started with %s runs", path)
		}
	}
}

// scan finds the process that was started with the lock file at path. It skips processes of other
// users.
func scan(want os.FileInfo, path string) (ID, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return ID{}, fmt.Errorf("listing processes: %w", err)
	}
	missing := fault.New(fault.NotFound, "no process has the lock open")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if got, err := os.Stat(lockOf(pid)); (err != nil || !os.SameFile(want, got)) && !confinedIn(pid, filepath.Dir(path)) {
			continue
		}
		id, err := Identify(pid)
		if err != nil {
			continue
		}
		if ours, err := holds(pid, path); err == nil && ours {
			return id, nil
		} else if err == nil {
			missing = fault.New(fault.WrongState, "process %d has %s from another directory", pid, filepath.Base(path))
		}
	}
	return ID{}, missing
}

// confinedIn reports whether a process works in dir and is a VMM by what a process cannot change: a
// leader of a session without a terminal, under a filter of system calls. A shell of the user that
// works in dir is none.
func confinedIn(pid int, dir string) bool { return worksIn(pid, dir) && isConfined(pid) }

// isConfined reports the part of confinedIn that has no directory.
func isConfined(pid int) bool {
	s, err := readStat(pid)
	if err != nil || s.session != pid || s.terminal != 0 {
		return false
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	return err == nil && bytes.Contains(status, []byte("\nNoNewPrivs:\t1\n")) && bytes.Contains(status, []byte("\nSeccomp:\t2\n"))
}
