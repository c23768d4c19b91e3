package port

import (
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Port is an open virtio-serial port. The kernel lets it be opened once, and sessions come and go on it.
type Port struct {
	f   *os.File
	raw syscall.RawConn

	mu      sync.Mutex
	current *conn
}

// Open opens the port's device file.
func Open(path string) (*Port, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("opening port %s: %w", path, err)
	}
	return FromFD(fd)
}

// FromFD takes over the descriptor of an open port.
func FromFD(fd int) (*Port, error) {
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil { // a blocking write spins in the kernel until the host has read
		return nil, fmt.Errorf("setting up the port: %w", err)
	}
	f := os.NewFile(uintptr(fd), "port")
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("setting up the port: %w", err)
	}
	return &Port{f: f, raw: raw}, nil
}

// FD is the descriptor, to be handed to another process. It stays non-blocking, as os.File.Fd would not leave it.
func (p *Port) FD() (fd uintptr) {
	p.raw.Control(func(n uintptr) { fd = n })
	return fd
}

// Conn returns the port as the raw connection of one session; the one before must have been closed. Its Read waits for a host; once it has read
// something, io.EOF means that the host went away. Closing it leaves the port open.
func (p *Port) Conn() io.ReadWriteCloser {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &conn{port: p}
	p.current = c
	p.f.SetDeadline(time.Time{})
	return c
}

type conn struct {
	port *Port
	live bool // a byte has come; used by the one reader only
}

// Read reads from the port. A port without a host gives 0 bytes instead of waiting (drivers/char/virtio_console.c,
// port_fops_read), and poll(2) then says "hung up" at once, so neither can be waited on. But the driver wakes those who
// wait on the port when a host comes, and the runtime's poller is edge-triggered: it looks again only after
// such a wake-up. So waiting for the next edge after 0 bytes costs nothing and misses nothing.
func (c *conn) Read(b []byte) (n int, err error) {
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

func (c *conn) Write(b []byte) (int, error) { return c.port.f.Write(b) }

// Close ends a Read or Write under way and all later ones.
func (c *conn) Close() error {
	c.port.mu.Lock()
	defer c.port.mu.Unlock()
	if c.port.current == c {
		c.port.current = nil
		return c.port.f.SetDeadline(time.Unix(1, 0))
	}
	return nil
}
