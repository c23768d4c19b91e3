package channel

import (
	"context"
	"io"
	"net"
)

// Listener is the guest's end of a transport. Packages serial and vsock implement it.
type Listener interface {
	// Accept waits for the raw connection of the next session, or until ctx ends. Where the
	// transport has one raw stream only, it also waits until the previous connection is closed. One
	// call at a time is allowed.
	Accept(ctx context.Context) (io.ReadWriteCloser, error)
	// FD returns the open descriptor, so that another process can listen with the
	// package's FromFD.
	FD() uintptr
	Close() error
}

// Dialer is the host's end of a transport. Packages serial and vsock implement it.
type Dialer interface {
	// Dial connects. It waits for an agent only where the transport can connect to nothing else.
	Dial(ctx context.Context) (net.Conn, error)
}
