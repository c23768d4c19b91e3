package freezer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
)

// Signals freezes with SIGSTOP. Process 1 ignores it (kill(2)), so Signals works where the agent is
// process 1.
type Signals struct {
	stopped map[int]string // start times of the processes that we stopped
}

// settleTime is the time between two checks for running processes. The kernel has no event for it.
const settleTime = time.Millisecond

// Freeze halts all processes and returns how many there are. If ctx ends before, it lets them
// continue.
func (s *Signals) Freeze(ctx context.Context) (int, error) {
	if os.Getpid() != 1 {
		return 0, fault.New(fault.Unsupported,
			"freezing: the guest's kernel has no control groups, and process 1 ignores signals")
	}
	s.stopped = map[int]string{}
	tick := time.NewTicker(settleTime)
	defer tick.Stop()
	for {
		running, err := s.pass()
		if err == nil && running == 0 {
			return len(s.stopped), nil
		}
		if err != nil {
			return 0, errors.Join(err, s.Thaw())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, errors.Join(fmt.Errorf("freezing: %d processes still run: %w", running, context.Cause(ctx)), s.Thaw())
		}
	}
}

// pass stops running processes and returns how many there were.
func (s *Signals) pass() (int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return 0, fmt.Errorf("freezing: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return 0, fmt.Errorf("freezing: %w", err)
	}
	running := 0
	waiting := map[string]bool{} // pids of processes that a signal does not stop now
	children := map[int]string{} // of those that we stopped: their parents
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() {
			continue
		}
		// Stopped, traced and stopped, or dead: the process does not run.
		st, ok := readStat(pid)
		ours := ok && s.stopped[pid] == st.start
		if ours && st.state == 'T' {
			children[pid] = st.parent
		}
		if !ok || st.kernel || st.state == 'T' || st.state == 't' || st.state == 'Z' || st.state == 'X' {
			continue
		}
		running++
		if ours { // it will stop soon
			waiting[name] = waiting[name] || st.state == 'D'
			continue
		}
		if err := unix.Kill(pid, unix.SIGSTOP); err == nil {
			s.stopped[pid] = st.start
		} else if err != unix.ESRCH {
			return running, fmt.Errorf("freezing: stopping process %d: %w", pid, err)
		}
	}
	return running, s.release(children, waiting)
}

// release lets children continue whose parents wait in the kernel. After vfork(2) a parent waits
// until its child runs another program, and does not stop before. The next pass stops the child.
func (s *Signals) release(children map[int]string, waiting map[string]bool) error {
	for pid, parent := range children {
		if !waiting[parent] {
			continue
		}
		if err := unix.Kill(pid, unix.SIGCONT); err != nil && err != unix.ESRCH {
			return fmt.Errorf("freezing: continuing process %d: %w", pid, err)
		}
		delete(s.stopped, pid)
	}
	return nil
}

// Thaw lets the processes continue that Freeze halted. Children go first: a shell that waits for
// them must not find them stopped.
func (s *Signals) Thaw() error {
	var pids []int
	for pid := range s.stopped {
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	slices.Reverse(pids)
	var errs []error
	for _, pid := range pids {
		if st, ok := readStat(pid); !ok || st.start != s.stopped[pid] {
			continue
		}
		if err := unix.Kill(pid, unix.SIGCONT); err != nil && err != unix.ESRCH {
			errs = append(errs, fmt.Errorf("thawing process %d: %w", pid, err))
		}
	}
	s.stopped = nil
	return errors.Join(errs...)
}
