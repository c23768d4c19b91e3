package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/freezer"
)

// serveBeside is the agent beside the image's init.
func serveBeside(version string) error {
	// The signals are received and dropped. Commands would inherit ignored ones.
	signal.Notify(make(chan os.Signal, 1),
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE, unix.SIGUSR1, unix.SIGUSR2)
	for fd := fdListener; fd < fdDrive; fd++ {
		unix.CloseOnExec(fd)
	}
	state, err := readState(os.NewFile(fdState, "handover"))
	if err != nil {
		return err
	}
	for i := range state.Drives {
		unix.CloseOnExec(fdDrive + i)
		state.Drives[i].Root = os.NewFile(uintptr(fdDrive+i), state.Drives[i].Serial)
	}
	a := newAgent(slog.New(slog.NewTextHandler(prefixed{os.Stderr, "banger-agent: "}, nil)), version, true)
	if err := a.takeOver(state); err != nil {
		return err
	}
	if err := a.processes.table.Protect(); err != nil { // without the agent the machine is lost
		a.log.Warn("memory may run out", "error", err)
	}

	release := os.NewFile(fdGo, "go")
	if _, err := io.Copy(io.Discard, release); err != nil {
		return fmt.Errorf("waiting for process 1: %w", err)
	}
	release.Close()
	a.marks.add("beside")
	ctx := context.Background()
	go a.power.watchButton(ctx)
	a.serve(ctx)
	return nil
}

// takeOver takes over what the agent as process 1 has built.
func (a *agent) takeOver(state handoverState) error {
	var err error
	if a.handover.endpoint, err = takeOver(state.Transport, fdListener); err != nil {
		return err
	}
	takeOverGroups(a.processes, state.Groups)
	a.life.enter(assumed)
	a.settings.set(state.Identity)
	a.cards.networks = state.Networks
	a.marks.takeOver(state.Marks, state.Wall)
	a.drives.TakeOver(state.Drives)
	return nil
}

// takeOverGroups takes over the control groups, if there are any.
func takeOverGroups(p *processes, groups bool) {
	p.freezer = &freezer.Signals{}
	if !groups {
		unix.Close(fdGroup)
		return
	}
	g, err := freezer.FromFD(fdGroup, freezer.Agent)
	if err != nil {
		p.log.Warn("no control groups", "error", err)
		return
	}
	p.useGroups(g)
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
