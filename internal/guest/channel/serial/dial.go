package serial

import (
	"context"
	"net"

	"banger/internal/fault"
	"banger/internal/socket"
)

// Dialer is the host's end: the VMM's unix socket behind the port. It implements channel.Dialer.
type Dialer struct {
	Path string
}

// Dial connects to the socket. It succeeds as soon as the VMM runs, whether or not an agent reads
// the port.
func (d Dialer) Dial(ctx context.Context) (net.Conn, error) {
	conn, err := socket.Dial(ctx, d.Path)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "connecting to the agent's port: %w", err)
	}
	return conn, nil
}
