package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/guest/agent/freezer"
	"banger/internal/guest/agent/proc"
	"banger/internal/guest/proto"
)

// besideName is argv[0] of the agent beside the image's init. At shutdown, systemd spares root's
// processes whose first argument begins with @ (systemd.io, ROOT_STORAGE_DAEMONS). So the agent
// serves to the end.
const besideName = "@banger-agent"

// Descriptors of the agent beside the init, after the standard ones.
const (
	fdListener = 3 + iota // the transport's listener
	fdState               // a memfd with the handover document
	fdGo                  // a pipe whose end means that process 1 no longer uses the listener
	fdGroup               // the mount of the control groups; unused if there are none
	fdDrive               // the drives, in the order of the document
)

// maxState bounds the document, which holds data of one assume.
const maxState = 2 * proto.MaxAssume

// handover is the state that the agent as process 1 passes to its copy. It goes through a
// descriptor: everybody in the guest can read arguments, and root's programs can read an
// environment.
type handover struct {
	Transport string       `json:"transport"` // of the listener that is handed over
	Identity  identity     `json:"identity"`
	Marks     []proto.Mark `json:"marks"`
	Drives    []mounted    `json:"drives"`
	Groups    bool         `json:"groups"` // whether there are control groups
}

// handOver starts the copy that serves after this process has executed init.
func (a *agent) handOver(init []string) error {
	if err := checkInit(init[0]); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	groups, _ := a.freezer.(*freezer.Groups)
	state, err := stateFile(handover{
		Transport: a.transport, Identity: a.identity, Marks: a.marks, Drives: a.drives, Groups: groups != nil,
	})
	if err != nil {
		return err
	}
	defer state.Close()
	wait, release, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making a pipe: %w", err)
	}
	defer wait.Close()
	log, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0) // the init will hang up the console
	if err != nil {
		return fmt.Errorf("opening the kernel's log: %w", err)
	}
	defer log.Close()

	descriptors := []uintptr{log.Fd(), log.Fd(), log.Fd(), a.listener.FD(), state.Fd(), wait.Fd(), log.Fd()}
	sys := &syscall.SysProcAttr{Setsid: true}
	if groups != nil {
		descriptors[fdGroup] = groups.FD()
		home, err := groups.Make(freezer.Agent)
		if err != nil {
			return err
		}
		defer home.Close()
		sys.UseCgroupFD, sys.CgroupFD = true, int(home.Fd())
	}
	for _, d := range a.drives {
		descriptors = append(descriptors, d.root.Fd())
	}
	_, err = a.procs.Spawn("/proc/self/exe", []string{besideName}, &syscall.ProcAttr{
		Dir: "/", Files: descriptors, Env: []string{"PATH=" + proc.DefaultPath}, Sys: sys,
	})
	if err != nil {
		release.Close()
		return err
	}
	a.successor = release // closed by execve
	a.imageInit = init
	return nil
}

func checkInit(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fault.New(fault.Invalid, "the image's init: %w", err)
	}
	if !filepath.IsAbs(path) || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return fault.New(fault.Invalid, "the image's init: %s is not a program", path)
	}
	return nil
}

func stateFile(h handover) (*os.File, error) {
	data, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encoding the handover: %w", err)
	}
	fd, err := unix.MemfdCreate("banger-handover", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making a memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "handover")
	if _, err := f.WriteAt(data, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("writing the handover: %w", err)
	}
	return f, nil
}

// execInit turns process 1 into the image's init. If that fails, the copy serves a machine without
// an init.
func (a *agent) execInit() error {
	if len(a.imageInit) == 0 {
		return fmt.Errorf("serving ended")
	}
	if err := prepareInit(); err != nil {
		a.log.Warn("preparing the init", "error", err)
	}
	// Everything that the init starts is then in a group, whether or not the init uses groups.
	if groups, ok := a.freezer.(*freezer.Groups); ok {
		if err := groups.Enter(freezer.Init); err != nil {
			a.log.Warn("preparing the init", "error", err)
		}
	}
	signal.Reset()
	err := unix.Exec(a.imageInit[0], a.imageInit, append(os.Environ(), "PATH="+proc.DefaultPath))
	a.log.Error("the image's init does not run", "init", a.imageInit[0], "error", err)
	a.successor.Close()
	select {} // the copy serves; process 1 must not end
}

// serveBeside is the agent beside the image's init.
func (a *agent) serveBeside() error {
	// The signals are received and dropped. Commands would inherit ignored ones.
	signal.Notify(make(chan os.Signal, 1),
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE, unix.SIGUSR1, unix.SIGUSR2)
	for fd := fdListener; fd < fdDrive; fd++ {
		unix.CloseOnExec(fd)
	}
	h, err := readState(os.NewFile(fdState, "handover"))
	if err != nil {
		return err
	}
	for i := range h.Drives {
		unix.CloseOnExec(fdDrive + i)
		h.Drives[i].root = os.NewFile(uintptr(fdDrive+i), h.Drives[i].Serial)
	}
	a.log = slog.New(slog.NewTextHandler(prefixed{os.Stderr, "banger-agent: "}, nil))
	a.procs = proc.NewTable(a.log)
	if a.listener, err = takeOver(h.Transport, fdListener); err != nil {
		return err
	}
	a.transport = h.Transport
	a.takeOverGroups(h.Groups)
	a.init, a.phase = true, assumed
	a.identity, a.marks, a.drives = h.Identity, h.Marks, h.Drives
	if err := a.procs.Protect(); err != nil { // without the agent the machine is lost
		a.log.Warn("memory may run out", "error", err)
	}

	release := os.NewFile(fdGo, "go")
	if _, err := io.Copy(io.Discard, release); err != nil {
		return fmt.Errorf("waiting for process 1: %w", err)
	}
	release.Close()
	a.mark("beside")
	ctx := context.Background()
	go a.watchPowerButton(ctx)
	a.serve(ctx)
	return nil
}

// takeOverGroups takes over the control groups, if there are any.
func (a *agent) takeOverGroups(groups bool) {
	a.freezer = &freezer.Signals{}
	if !groups {
		unix.Close(fdGroup)
		return
	}
	g, err := freezer.FromFD(fdGroup, freezer.Agent)
	if err != nil {
		a.log.Warn("no control groups", "error", err)
		return
	}
	a.procs.UseGroups(g)
	a.freezer = g
}

func readState(f *os.File) (handover, error) {
	var h handover
	defer f.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, 0, maxState))
	if err == nil {
		err = json.Unmarshal(data, &h)
	}
	if err != nil {
		return h, fmt.Errorf("reading the handover: %w", err)
	}
	return h, nil
}

// prefixed puts a prefix before every write: a write to /dev/kmsg is one message of the kernel's
// log.
type prefixed struct {
	w      io.Writer
	prefix string
}

func (p prefixed) Write(b []byte) (int, error) {
	if _, err := p.w.Write(bytes.Join([][]byte{[]byte(p.prefix), b}, nil)); err != nil {
		return 0, err
	}
	return len(b), nil
}
