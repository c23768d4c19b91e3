// Package proc runs commands in the guest. It finds the user and the program, gives the command a
// terminal or pipes, and reports its end after all output was delivered.
//
// Vocabulary: a command runs for the host. A child is any process that the agent started. Orphans
// are processes that process 1 inherits and must reap.
//
// Invariant: every wait of the agent happens in one Table, under its lock. Process 1 has to reap
// orphans, and a wait for any child would steal the status of a child that somebody else waits for.
// So nothing else in the agent may use os/exec.
package proc

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Table knows the children of this process and reaps them. As process 1 it also reaps orphans.
type Table struct {
	log     *slog.Logger
	orphans bool // reap what was not started here
	signals chan os.Signal
	stop    chan struct{}

	mu        sync.Mutex
	children  map[int]*child
	protected bool
	groups    Groups        // nil: commands stay in this process's control group
	halted    chan struct{} // closed by Resume; nil while nobody is halted
	forks     int
}

// Groups provides the control group in which commands start, so that they can be frozen together.
type Groups interface {
	// ForCommands returns the descriptor of the group.
	ForCommands() int
	// Lost reports whether that group was removed.
	Lost() bool
	// Renew makes another one.
	Renew() error
}

// child is a process that was started here. The kernel does not reuse its pid before done is
// closed, under the table's lock.
type child struct {
	pid    int
	done   chan struct{}
	status unix.WaitStatus // valid once done is closed
}

// NewTable returns an empty Table and begins to reap.
func NewTable(log *slog.Logger) *Table {
	t := &Table{
		log:      log,
		orphans:  os.Getpid() == 1,
		signals:  make(chan os.Signal, 1), // one pending signal stands for any number of children
		stop:     make(chan struct{}),
		children: map[int]*child{},
	}
	signal.Notify(t.signals, unix.SIGCHLD)
	go t.run()
	return t
}

// Close ends reaping. Nobody waits for children that still run.
func (t *Table) Close() {
	signal.Stop(t.signals)
	close(t.stop)
}

func (t *Table) run() {
	for {
		select {
		case <-t.signals:
			t.reap()
		case <-t.stop:
			return
		}
	}
}

func (t *Table) reap() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.orphans {
		for pid := range t.children {
			t.reapLocked(pid)
		}
		return
	}
	for t.reapLocked(-1) {
	}
}

// reapLocked collects one ended child. It reports whether there was one.
func (t *Table) reapLocked(pid int) bool {
	var status unix.WaitStatus
	got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
	if err == unix.EINTR {
		return true
	}
	if err != nil || got <= 0 {
		return false
	}
	if c := t.children[got]; c != nil {
		delete(t.children, got)
		c.status = status
		close(c.done)
	}
	return true
}

// Values of /proc/self/oom_score_adj (proc(5)).
const (
	neverKill  = "-1000"
	killAsUsed = "0"
)

// Protect keeps the kernel from killing this process when memory runs out. Its children stay
// unprotected.
func (t *Table) Protect() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := setOOM(neverKill); err != nil {
		return fmt.Errorf("protecting the agent: %w", err)
	}
	t.protected = true
	return nil
}

func setOOM(score string) error { return os.WriteFile("/proc/self/oom_score_adj", []byte(score), 0) }

// UseGroups puts commands that start from now on into control groups.
func (t *Table) UseGroups(g Groups) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.groups = g
}

// ErrForked reports a command that waited in a halted machine and was not started: a request to the
// parent is not carried out in a fork.
var ErrForked = errors.New("the machine was forked before the command could start")

// Halt makes starting and signalling commands wait until Resume. When it returns, no start is under
// way.
func (t *Table) Halt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.halted = make(chan struct{})
}

// Resume ends Halt. forked reports whether the machine became a fork. Then commands that wait are
// not started.
func (t *Table) Resume(forked bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if forked {
		t.forks++
	}
	close(t.halted)
	t.halted = nil
}

// waitLocked waits until the machine is not halted. It reports whether the machine is still the
// same. It releases the lock meanwhile.
func (t *Table) waitLocked() (same bool) {
	forks := t.forks
	for t.halted != nil {
		halted := t.halted
		t.mu.Unlock()
		<-halted
		t.mu.Lock()
	}
	return t.forks == forks
}

// start runs a program in the commands' control group, after the machine is no longer halted.
func (t *Table) start(path string, argv []string, attr *syscall.ProcAttr) (*child, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.waitLocked() {
		return nil, ErrForked
	}
	if t.groups == nil {
		return t.startLocked(path, argv, attr)
	}
	attr.Sys.UseCgroupFD = true
	attr.Sys.CgroupFD = t.groups.ForCommands()
	c, err := t.startLocked(path, argv, attr)
	if t.refused(err) && t.groups.Renew() == nil {
		attr.Sys.CgroupFD = t.groups.ForCommands()
		c, err = t.startLocked(path, argv, attr)
	}
	// It then starts in this process's group. Groups moves it before it freezes.
	if t.refused(err) || unknown(err) {
		attr.Sys.UseCgroupFD = false
		c, err = t.startLocked(path, argv, attr)
	}
	return c, err
}

// refused reports whether clone3(2) may have failed because of the control group: it was removed,
// holds only groups, or is threaded. A missing program is a different error.
func (t *Table) refused(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EOPNOTSUPP) ||
		errors.Is(err, unix.ENOENT) && t.groups.Lost()
}

// unknown reports whether the kernel may lack clone3(2) or CLONE_INTO_CGROUP (Linux 5.7).
func unknown(err error) bool {
	return errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.E2BIG)
}

// startLocked runs a program. It holds the lock until the child is registered, so that its end
// cannot come first. ForkExec itself waits for a child whose execve failed.
func (t *Table) startLocked(path string, argv []string, attr *syscall.ProcAttr) (*child, error) {
	if t.protected { // the child inherits the score of the moment of the fork
		if err := setOOM(killAsUsed); err != nil {
			return nil, fmt.Errorf("unprotecting a command: %w", err)
		}
		defer setOOM(neverKill)
	}
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return nil, err
	}
	c := &child{pid: pid, done: make(chan struct{})}
	t.children[pid] = c
	return c, nil
}

// Spawn starts a program without an owner: it is reaped and forgotten. It starts where attr says,
// also in a halted machine.
func (t *Table) Spawn(path string, argv []string, attr *syscall.ProcAttr) (pid int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, err := t.startLocked(path, argv, attr)
	if err != nil {
		return 0, fmt.Errorf("starting %s: %w", path, err)
	}
	return c.pid, nil
}

// signal sends sig to the child's process group after the machine is no longer halted. For a reaped
// child it returns os.ErrProcessDone: the pid may be another process's by then.
func (t *Table) signal(c *child, sig unix.Signal) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waitLocked()
	return t.signalLocked(c, sig)
}

func (t *Table) signalLocked(c *child, sig unix.Signal) error {
	if t.children[c.pid] != c {
		return os.ErrProcessDone
	}
	return unix.Kill(-c.pid, sig)
}

// end hangs up on the child's process group, and kills it if it still runs after grace.
func (t *Table) end(c *child, grace time.Duration) {
	t.signal(c, unix.SIGHUP)
	t.signal(c, unix.SIGCONT) // a stopped process handles signals only after it continues
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		t.signal(c, unix.SIGKILL)
	}
}
