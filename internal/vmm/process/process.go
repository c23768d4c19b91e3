// Package process starts the processes of VMMs and finds them again.
//
// A VMM outlives the daemon that started it. So a process is known by its identity (pid, start
// time, boot), not by being a child. A pidfd reports its end. That works for children and for
// others, and a reused pid does not deceive it. The exit status of a child is collected, so no
// zombie stays while someone watches.
package process

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
)

// ID is the identity of a process. No two processes of a host have the same.
type ID struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot (proc_pid_stat(5), field 22)
	Boot  string `json:"boot"`  // /proc/sys/kernel/random/boot_id
}

// BootID returns the identity of the host's present boot.
func BootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("reading the boot id: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// Identify returns the identity of the process that has this pid now. If there is none, or only a
// zombie, the error is fault.NotFound.
func Identify(pid int) (ID, error) {
	boot, err := BootID()
	if err != nil {
		return ID{}, err
	}
	stat, err := readStat(pid)
	if err != nil {
		return ID{}, err
	}
	if stat.ended() {
		return ID{}, fault.New(fault.NotFound, "process %d has ended", pid)
	}
	return ID{PID: pid, Start: stat.start, Boot: boot}, nil
}

// Process is a running process, or one that has ended. Its methods are safe for concurrent use.
type Process struct {
	id    ID
	pidfd *os.File

	done   chan struct{} // closed when the process has ended
	idle   chan struct{} // closed when the watching goroutine has ended
	once   sync.Once
	status *syscall.WaitStatus // set before done is closed; nil if it was no child
}

// Spec describes a process to be started.
type Spec struct {
	Path  string
	Name  string   // its first argument; if unset, Path
	Args  []string // without the program's name
	Env   []string
	Dir   string
	Files []*os.File // its descriptors from 0 on; nothing else is inherited
	// Within calls its argument, which only starts the process, in a thread from which the process
	// inherits what it needs. Nil: any thread will do.
	Within func(start func() error) error
}

// Spawn starts a process in a session of its own.
func Spawn(s Spec) (*Process, error) {
	boot, err := BootID()
	if err != nil {
		return nil, err
	}
	files := make([]uintptr, len(s.Files))
	for i, f := range s.Files {
		files[i] = f.Fd()
	}
	pidfd := -1
	var pid int
	start := func() (err error) {
		pid, _, err = syscall.StartProcess(s.Path, append([]string{cmp.Or(s.Name, s.Path)}, s.Args...), &syscall.ProcAttr{
			Dir:   s.Dir,
			Env:   s.Env,
			Files: files,
			Sys:   &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
		})
		return err
	}
	if s.Within == nil {
		err = start()
	} else {
		err = s.Within(start)
	}
	if errors.Is(err, unix.EAGAIN) { // fork(2)
		return nil, fault.New(fault.Unavailable, "starting %s: %w", s.Path, err).
			WithHint("The user has too many processes and threads. End some, or raise the limit where bangerd starts (ulimit -u).")
	}
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", s.Path, err)
	}
	if pidfd < 0 { // Linux before 5.2; the pid of a child that was not reaped is not reused
		if pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
			err = fmt.Errorf("opening the pidfd of %s: %w", s.Path, err)
			return nil, errors.Join(err, syscall.Kill(pid, syscall.SIGKILL), reap(pid))
		}
	}
	// A core dump would hold the guest's memory. A pipe in core_pattern gets one with every limit
	// but 1 (do_coredump in fs/coredump.c). An error means that the process has ended.
	_ = unix.Prlimit(pid, unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1}, nil)
	id := ID{PID: pid, Boot: boot}
	if stat, err := readStat(pid); err == nil { // a child that was not reaped always has a stat
		id.Start = stat.start
	}
	return watch(id, pidfd)
}

// reap collects a killed child that has no pidfd.
func reap(pid int) error {
	_, err := syscall.Wait4(pid, nil, 0, nil)
	return err
}

// Take returns a copy of another process's descriptor (pidfd_getfd(2)). The kernel allows it for
// processes that the caller may trace.
func (p *Process) Take(fd int) (*os.File, error) {
	var got int
	raw, err := p.pidfd.SyscallConn()
	if err == nil {
		var failed error
		err = raw.Control(func(pidfd uintptr) { got, failed = unix.PidfdGetfd(int(pidfd), fd, 0) })
		err = errors.Join(err, failed)
	}
	if err != nil {
		return nil, fmt.Errorf("taking descriptor %d of process %d: %w", fd, p.id.PID, err)
	}
	return os.NewFile(uintptr(got), "taken"), nil
}

// Open finds the process with this identity. If it has ended, the error is fault.NotFound.
func Open(id ID) (*Process, error) {
	gone := fault.New(fault.NotFound, "process %d has ended", id.PID)
	if id.PID <= 0 {
		return nil, gone
	}
	pidfd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, gone
	} else if err != nil {
		return nil, fmt.Errorf("opening process %d: %w", id.PID, err)
	}
	// The pidfd is older than the identity that is read now. So the identity is that of its
	// process, or of a later one with the same pid.
	now, err := Identify(id.PID)
	if err == nil && now != id {
		err = gone
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(pidfd))
	}
	return watch(id, pidfd)
}

func watch(id ID, pidfd int) (*Process, error) {
	if err := unix.SetNonblock(pidfd, true); err != nil { // the poller of the runtime needs this
		return nil, errors.Join(fmt.Errorf("watching process %d: %w", id.PID, err), unix.Close(pidfd))
	}
	p := &Process{id: id, pidfd: os.NewFile(uintptr(pidfd), "pidfd"), done: make(chan struct{}), idle: make(chan struct{})}
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watching process %d: %w", id.PID, err), p.pidfd.Close())
	}
	go func() {
		defer close(p.idle)
		err := conn.Read(func(fd uintptr) bool {
			ready, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			if ready > 0 {
				p.status = collect(fd)
			}
			return ready > 0
		})
		if err == nil {
			close(p.done)
		}
	}()
	return p, nil
}

// sigchld is the part of siginfo_t that waitid fills in (sigaction(2); asm-generic/siginfo.h).
type sigchld struct {
	signo, errno, code int32
	_                  [ptrPad]byte
	pid                int32
	uid                uint32
	status             int32
}

// ptrPad is the padding before the union after the three ints, which is aligned as a pointer.
const ptrPad = unsafe.Sizeof(uintptr(0)) - 4

// collect collects the exit status of the child behind a pidfd. It returns nil if the process is no
// child, or someone else was faster.
func collect(pidfd uintptr) *syscall.WaitStatus {
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PIDFD, int(pidfd), &info, unix.WEXITED|unix.WNOHANG, nil); err != nil {
		return nil
	}
	child := (*sigchld)(unsafe.Pointer(&info))
	if child.pid == 0 {
		return nil
	}
	const exited, dumped = 1, 3 // CLD_EXITED, CLD_DUMPED of si_code
	var status syscall.WaitStatus
	switch child.code {
	case exited:
		status = syscall.WaitStatus(child.status << 8)
	case dumped:
		status = syscall.WaitStatus(child.status | 0x80)
	default:
		status = syscall.WaitStatus(child.status)
	}
	return &status
}

// ID returns the process's identity.
func (p *Process) ID() ID { return p.id }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Status is how the process ended. ok is false while it runs, and if the status is not known
// because the process was no child.
func (p *Process) Status() (status syscall.WaitStatus, ok bool) {
	select {
	case <-p.done:
	default:
		return 0, false
	}
	if p.status == nil {
		return 0, false
	}
	return *p.status, true
}

// Wait returns nil when the process has ended, or the cause when ctx has.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Signal sends a signal. If the process has ended, this is no error.
func (p *Process) Signal(sig syscall.Signal) error {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("signalling process %d: %w", p.id.PID, err)
	}
	var sent error
	if err := conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		sent = err
	}
	if sent != nil && !errors.Is(sent, unix.ESRCH) {
		return fmt.Errorf("signalling process %d: %w", p.id.PID, sent)
	}
	return nil
}

// Close stops watching. It does not touch the process.
func (p *Process) Close() error {
	p.once.Do(func() { _ = p.pidfd.Close() })
	<-p.idle
	return nil
}

type stat struct {
	state             byte
	session, terminal int
	utime, stime      uint64 // clock ticks
	threads           int
	start             uint64 // clock ticks after boot
}

// ended reports whether the process has ended. A process whose first thread has ended alone looks
// like a zombie, too.
func (s stat) ended() bool { return s.state == 'X' || s.state == 'Z' && s.threads <= 1 }

func readStat(pid int) (stat, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return stat{}, fault.New(fault.NotFound, "there is no process %d", pid)
	} else if err != nil {
		return stat{}, fmt.Errorf("examining process %d: %w", pid, err)
	}
	s, err := parseStat(data)
	if err != nil {
		return stat{}, fmt.Errorf("examining process %d: %w", pid, err)
	}
	return s, nil
}

// parseStat reads /proc/PID/stat (proc_pid_stat(5)). The second field is a name that may hold
// spaces and parentheses, so counting begins after the last parenthesis.
func parseStat(data []byte) (stat, error) {
	// field numbers
	const state, session, terminal, utime, stime, threads, start = 3, 6, 7, 14, 15, 20, 22
	end := bytes.LastIndexByte(data, ')')
	fields := strings.Fields(string(data[end+1:]))
	if end < 0 || len(fields) <= start-state || len(fields[0]) != 1 {
		return stat{}, fmt.Errorf("%.80q is not a process's stat", data)
	}
	s := stat{state: fields[0][0]}
	var errs []error
	for field, to := range map[int]*int{session: &s.session, terminal: &s.terminal, threads: &s.threads} {
		n, err := strconv.Atoi(fields[field-state])
		*to, errs = n, append(errs, err)
	}
	for field, to := range map[int]*uint64{utime: &s.utime, stime: &s.stime, start: &s.start} {
		n, err := strconv.ParseUint(fields[field-state], 10, 64)
		*to, errs = n, append(errs, err)
	}
	return s, errors.Join(errs...)
}
