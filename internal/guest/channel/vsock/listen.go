package vsock

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// backlog is how many connections may wait for Accept. There is one host.
const backlog = 4

// Listener is the guest's end: a listening socket. It implements channel.Listener.
type Listener struct {
	f   *os.File
	raw syscall.RawConn

	// allowed reports whether a peer may speak to the agent. Processes in the guest may not: the
	// kernel's loopback would let them connect, but as VMADDR_CID_LOCAL and not as the host.
	allowed func(unix.Sockaddr) bool
}

func fromHost(sa unix.Sockaddr) bool {
	vm, ok := sa.(*unix.SockaddrVM)
	return ok && vm.CID == unix.VMADDR_CID_HOST
}

// Listen listens on a port for connections from the host. The port works as soon as the device's
// driver is there.
func Listen(port uint32) (*Listener, error) {
	fd, err := newSocket()
	if err != nil {
		return nil, err
	}
	err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port})
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listening on vsock port %d: %w", port, err)
	}
	return FromFD(fd)
}

// FromFD takes ownership of the descriptor of a listening socket.
func FromFD(fd int) (*Listener, error) {
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("setting up a vsock socket: %w", err)
	}
	f, raw, err := pollable(fd, "vsock listener")
	if err != nil {
		return nil, err
	}
	return &Listener{f: f, raw: raw, allowed: fromHost}, nil
}

// FD returns the descriptor, for handing it to another process. Unlike os.File.Fd it stays
// non-blocking.
func (l *Listener) FD() (fd uintptr) {
	l.raw.Control(func(n uintptr) { fd = n })
	return fd
}

// Accept waits for the next connection from the host. Connections from elsewhere are closed.
func (l *Listener) Accept(ctx context.Context) (io.ReadWriteCloser, error) {
	if err := l.f.SetReadDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("accepting on vsock: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { l.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		fd, peer, err := l.accept()
		if ctx.Err() != nil {
			if err == nil {
				unix.Close(fd)
			}
			return nil, context.Cause(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("accepting on vsock: %w", err)
		}
		if !l.allowed(peer) {
			unix.Close(fd)
			continue
		}
		f, _, err := pollable(fd, "vsock connection")
		if err != nil {
			return nil, err
		}
		return &conn{File: f, remote: addrOf(peer)}, nil
	}
}

func (l *Listener) accept() (fd int, peer unix.Sockaddr, err error) {
	waitErr := l.raw.Read(func(listener uintptr) bool {
		for {
			fd, peer, err = unix.Accept4(int(listener), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if err != unix.EINTR && err != unix.ECONNABORTED {
				return err != unix.EAGAIN
			}
		}
	})
	if waitErr != nil {
		return 0, nil, waitErr
	}
	return fd, peer, err
}

// Close stops listening.
func (l *Listener) Close() error { return l.f.Close() }
