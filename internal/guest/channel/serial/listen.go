// Package serial is the virtio-serial transport of the agent's channel (virtio specification 1.2,
// section 5.3).
//
// A port is one raw byte stream for the whole life of a machine. The guest's end is a character
// device that the kernel lets one process open, once. The host's end is a unix socket of the VMM,
// on which hosts come and go. The port does not report reliably that a host went away, and it keeps
// bytes that a host did not read. Package channel's handshake copes with both.
package serial

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listener is the guest's end: an open port on which one host follows another. It implements
// channel.Listener.
type Listener struct {
	f    *os.File
	raw  syscall.RawConn
	free chan struct{} // holds one element while no connection is in use
}

// Open opens the port's device file.
func Open(path string) (*Listener, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("opening port %s: %w", path, err)
	}
	return FromFD(fd)
}

// FromFD takes ownership of the descriptor of an open port.
func FromFD(fd int) (*Listener, error) {
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil { // a blocking write would spin in the kernel
		return nil, fmt.Errorf("setting up the port: %w", err)
	}
	f := os.NewFile(uintptr(fd), "port")
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("setting up the port: %w", err)
	}
	l := &Listener{f: f, raw: raw, free: make(chan struct{}, 1)}
	l.free <- struct{}{}
	return l, nil
}

// FD returns the descriptor, for handing it to another process. Unlike os.File.Fd it stays
// non-blocking.
func (l *Listener) FD() (fd uintptr) {
	l.raw.Control(func(n uintptr) { fd = n })
	return fd
}

// Accept returns the port as the raw connection of one session. It waits until the previous
// connection is closed. The connection's first Read waits for a host; after that, io.EOF means that
// the host went away.
func (l *Listener) Accept(ctx context.Context) (io.ReadWriteCloser, error) {
	select {
	case <-l.free:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if err := l.f.SetDeadline(time.Time{}); err != nil {
		l.free <- struct{}{}
		return nil, fmt.Errorf("setting up the port: %w", err)
	}
	return &conn{port: l}, nil
}

// Close closes the port.
func (l *Listener) Close() error { return l.f.Close() }

// conn is the port during one session. Closing it leaves the port open.
type conn struct {
	port *Listener
	live bool // a byte was read; only the one reader uses it

	mu     sync.Mutex
	closed bool
	calls  int // reads and writes under way
}

// begin registers a read or write. It reports whether the connection is open.
func (c *conn) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.calls++
	return true
}

// end releases the port after the last call on a closed connection. Earlier would be wrong: the
// next Accept resets the deadline, and a call that this deadline was to end would wait on.
func (c *conn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls--
	if c.closed && c.calls == 0 {
		c.port.free <- struct{}{}
	}
}

// Read reads from the port. Without a host, read(2) returns 0 bytes and poll(2) reports a hang-up
// at once. So Read waits for the next edge of the runtime's edge-triggered poller: the driver wakes
// it when a host comes.
func (c *conn) Read(b []byte) (n int, err error) {
	if !c.begin() {
		return 0, os.ErrClosed
	}
	defer c.end()
	waitErr := c.port.raw.Read(func(fd uintptr) bool {
		for {
			if n, err = unix.Read(int(fd), b); err != unix.EINTR {
				break
			}
		}
		return err != unix.EAGAIN && (err != nil || n > 0 || c.live)
	})
	switch {
	case waitErr != nil:
		return 0, waitErr
	case err != nil:
		return 0, fmt.Errorf("reading from the port: %w", err)
	case n == 0 && len(b) > 0:
		return 0, io.EOF
	}
	c.live = true
	return n, nil
}

func (c *conn) Write(b []byte) (int, error) {
	if !c.begin() {
		return 0, os.ErrClosed
	}
	defer c.end()
	return c.port.f.Write(b)
}

// Close ends a Read or Write under way and all later ones. It is idempotent.
func (c *conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	err := c.port.f.SetDeadline(time.Unix(1, 0))
	if c.calls == 0 {
		c.port.free <- struct{}{}
	}
	return err
}
