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

// Signals freezes by SIGSTOP. Process 1 takes none (kill(2)), so it serves where the agent itself is process 1.
type Signals struct {
	stopped map[int]string // start times of those who were stopped by us
}

// settleTime is the time between two looks at who stands still. There is no event for it.
const settleTime = time.Millisecond

// Freeze halts everybody, and returns how many processes that are. When ctx ends before all stand still, they go on again.
func (s *Signals) Freeze(ctx context.Context) (int, error) {
	if os.Getpid() != 1 {
		return 0, fault.New(fault.Unsupported, "freezing: the guest's kernel has no control groups, and process 1 takes no signals")
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
			return 0, errors.Join(fmt.Errorf("freezing: %d processes go on: %w", running, context.Cause(ctx)), s.Thaw())
		}
	}
}

// pass stops whom it finds running, and tells how many those were.
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
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() {
			continue
		}
		// Stopped, traced and stopped, dead: nothing of it runs.
		st, ok := readStat(pid)
		if !ok || st.kernel || st.state == 'T' || st.state == 't' || st.state == 'Z' || st.state == 'X' {
			continue
		}
		running++
		if s.stopped[pid] == st.start {
			continue // on its way
		}
		if err := unix.Kill(pid, unix.SIGSTOP); err == nil {
			s.stopped[pid] = st.start
		} else if err != unix.ESRCH {
			return running, fmt.Errorf("freezing: stopping process %d: %w", pid, err)
		}
	}
	return running, nil
}

// Thaw lets go on whom Freeze halted. Children go first: a shell that looks at them shall not find them stopped.
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
