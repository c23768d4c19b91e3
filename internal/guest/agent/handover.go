package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/guest/agent/freezer"
	"banger/internal/guest/agent/mount"
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

// handoverState is the state that the agent as process 1 passes to its copy. It goes through a
// descriptor: everybody in the guest can read arguments, and root's programs can read an
// environment.
type handoverState struct {
	Transport string          `json:"transport"` // of the listener that is handed over
	Identity  identity        `json:"identity"`
	Networks  []proto.Network `json:"networks"`
	Marks     []proto.Mark    `json:"marks"`

	// Wall is what the clock showed at each mark.
	Wall map[string]time.Time `json:"wall"`

	Drives []mount.Drive `json:"drives"`
	Groups bool          `json:"groups"` // whether there are control groups
}

// handover passes the service to a copy of the agent, and process 1 to the image's init.
type handover struct {
	log       *slog.Logger
	endpoint  endpoint // set when it is open
	settings  *settings
	cards     *cards
	marks     *marks
	drives    *mount.Drives
	processes *processes

	// done is closed when the image's init is to take over process 1. The fields that this needs
	// are set before.
	done      chan struct{}
	init      []string
	successor *os.File // closing it makes the agent's copy begin
}

// begin starts the copy that serves after this process has executed init. The caller holds
// life.change.
func (h *handover) begin(init []string) error {
	if err := checkInit(init[0]); err != nil {
		return err
	}
	groups, drives := h.processes.groups(), h.drives.All()
	state, err := stateFile(handoverState{
		Transport: h.endpoint.transport, Identity: h.settings.get(), Networks: h.cards.networks,
		Marks: h.marks.all(), Wall: h.marks.walls(), Drives: drives, Groups: groups != nil,
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

	descriptors := []uintptr{log.Fd(), log.Fd(), log.Fd(), h.endpoint.FD(), state.Fd(), wait.Fd(), log.Fd()}
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
	for _, d := range drives {
		descriptors = append(descriptors, d.Root.Fd())
	}
	_, err = h.processes.table.Spawn("/proc/self/exe", []string{besideName}, &syscall.ProcAttr{
		Dir: "/", Files: descriptors, Env: []string{"PATH=" + proc.DefaultPath}, Sys: sys,
	})
	if err != nil {
		release.Close()
		return err
	}
	h.successor = release // closed by execve
	h.init = init
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

func stateFile(h handoverState) (*os.File, error) {
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
func (h *handover) execInit() error {
	if len(h.init) == 0 {
		return fmt.Errorf("serving ended")
	}
	if err := prepareInit(); err != nil {
		h.log.Warn("preparing the init", "error", err)
	}
	// Everything that the init starts is then in a group, whether or not the init uses groups.
	if groups := h.processes.groups(); groups != nil {
		if err := groups.Enter(freezer.Init); err != nil {
			h.log.Warn("preparing the init", "error", err)
		}
	}
	signal.Reset()
	err := unix.Exec(h.init[0], h.init, append(os.Environ(), "PATH="+proc.DefaultPath))
	h.log.Error("the image's init does not run", "init", h.init[0], "error", err)
	h.successor.Close()
	select {} // the copy serves; process 1 must not end
}

func readState(f *os.File) (handoverState, error) {
	var h handoverState
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
