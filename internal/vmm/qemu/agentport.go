package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"time"

	"banger/internal/fault"
	"banger/internal/socket"
	"banger/internal/vmm/qemu/defect"
)

// agentPort is the host's end of the agent's port. When a halted machine continues, someone must be
// connected to it: see defect.PortAbandoned.
type agentPort struct {
	mu    sync.Mutex
	early net.Conn // made so that someone is connected; the next DialAgent gets it

	// heard is closed when the guest has written something. It is nil if the machine was adopted or
	// restored: its agent has answered before.
	heard chan struct{}
	once  sync.Once
}

// DialAgent connects to the agent's port.
func (in *instance) DialAgent(ctx context.Context) (net.Conn, error) {
	in.agent.mu.Lock()
	conn := in.agent.early
	in.agent.early = nil
	in.agent.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	return in.connectAgent(ctx)
}

func (in *instance) connectAgent(ctx context.Context) (net.Conn, error) {
	conn, err := socket.Dial(ctx, runPath(in.s, agentSocket))
	if err != nil {
		return nil, unreachable(in, fault.New(fault.Unavailable, "connecting to the agent of machine %s: %w", in.s.ID, err))
	}
	if in.agent.heard == nil {
		return conn, nil
	}
	return &listening{Conn: conn, port: &in.agent}, nil
}

// unreachable adds a hint to the error of a machine whose sockets were removed while it runs, as
// systemd-logind removes /run/user when the user's last session ends.
func unreachable(in *instance, err *fault.Error) error {
	if !lostRunDir(in) {
		return err
	}
	return err.WithHint("Its run directory %s was removed or moved, for instance at the end of a login session. If it was moved, move it back. "+
		"Otherwise nothing can reach the guest any more: its programs continue, and `banger vm kill` ends it like a power cut. `loginctl enable-linger` keeps /run/user.", in.s.RunDir)
}

func lostRunDir(in *instance) bool {
	_, gone := os.Lstat(in.s.RunDir)
	return errors.Is(gone, fs.ErrNotExist) || in.proc.LostDir()
}

// Reach looks for the sockets of a machine to which nobody is connected: see vmm.Reacher. An
// adoption that has found no monitor has found no agent either.
func (in *instance) Reach() error {
	if in.monitor != nil || !lostRunDir(in) {
		return nil
	}
	return unreachable(in, fault.New(fault.Unavailable, "neither the agent nor QEMU can be reached: %w", in.monitorErr))
}

// awaitPoll is how often QEMU is asked whether it has accepted a connection. It accepts one at
// once.
const awaitPoll = time.Millisecond

// occupyAgent connects to the agent's port, unless someone is connected.
func (in *instance) occupyAgent(ctx context.Context) error {
	taken, err := agentTaken(ctx, in)
	if taken || err != nil {
		return err
	}
	conn, err := in.connectAgent(ctx)
	if err != nil {
		return err
	}
	for !taken && err == nil {
		select {
		case <-time.After(awaitPoll):
			taken, err = agentTaken(ctx, in)
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	if err != nil {
		conn.Close()
		return fmt.Errorf("waiting for the agent's port: %w", err)
	}
	in.agent.mu.Lock()
	defer in.agent.mu.Unlock()
	if in.agent.early != nil { // QEMU had closed it
		in.agent.early.Close()
	}
	in.agent.early = conn
	return nil
}

// agentTaken reports whether someone is connected to the agent's port.
func agentTaken(ctx context.Context, in *instance) (bool, error) {
	var devices []chardev
	if err := in.ask(ctx, "query-chardev", nil, &devices); err != nil {
		return false, err
	}
	for _, d := range devices {
		if d.Label == "agent" {
			return !defect.PortAbandoned(d.File), nil
		}
	}
	return false, fault.New(fault.Unsupported, "machine %s has no port for the agent", in.s.ID)
}

// chardev is an element of QEMU's answer to query-chardev (qapi/char.json of QEMU 7.2).
type chardev struct {
	Label string `json:"label"`
	File  string `json:"filename"` // see defect.PortAbandoned
}

func (p *agentPort) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.early != nil {
		p.early.Close()
		p.early = nil
	}
}
