package qemu

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"banger/internal/fault"
)

// agentPort is the host's end of the agent's port.
//
// While a machine stands still, QEMU does not follow what becomes of its ports' sockets (virtconsole_enable_backend in hw/char/virtio-console.c
// of QEMU 7.2). When it goes on, it believes a host that has gone away meanwhile to be there still: what the guest writes next fails, and from
// then on the port takes nothing any more, whoever connects. So somebody has to be there before the machine goes on.
type agentPort struct {
	mu    sync.Mutex
	early net.Conn // was made so that somebody is there; the next who dials gets it

	heard chan struct{} // closed when the guest has said something; nil in a machine that was adopted or restored, whose agent has long been up
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
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", runPath(in.s, agentSocket))
	if err != nil {
		return nil, fault.New(fault.Unavailable, "connecting to the agent of machine %s: %w", in.s.ID, err)
	}
	if in.agent.heard == nil {
		return conn, nil
	}
	return &listening{Conn: conn, port: &in.agent}, nil
}

// awaitPoll is how often QEMU is asked whether it has taken a connection up, which it does next.
const awaitPoll = time.Millisecond

// occupyAgent sees to it that somebody is connected to the agent's port.
func (in *instance) occupyAgent(ctx context.Context) error {
	taken, err := in.agentTaken(ctx)
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
			taken, err = in.agentTaken(ctx)
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
	if in.agent.early != nil { // it had been given up by QEMU
		in.agent.early.Close()
	}
	in.agent.early = conn
	return nil
}

// agentTaken tells whether somebody is connected to the agent's port.
func (in *instance) agentTaken(ctx context.Context) (bool, error) {
	var devices []chardev
	if err := in.ask(ctx, "query-chardev", nil, &devices); err != nil {
		return false, err
	}
	for _, d := range devices {
		if d.Label == "agent" {
			return !strings.HasPrefix(d.File, "disconnected:"), nil
		}
	}
	return false, fault.New(fault.Unsupported, "machine %s has no port for the agent", in.s.ID)
}

// chardev is an element of QEMU's answer to query-chardev (qapi/char.json of QEMU 7.2).
type chardev struct {
	Label string `json:"label"`
	File  string `json:"filename"` // "disconnected:unix:PATH" while nobody is connected (qemu_chr_compute_filename in chardev/char-socket.c)
}

func (p *agentPort) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.early != nil {
		p.early.Close()
		p.early = nil
	}
}
