package server

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Read reads what the client has sent. If a deadline has passed, it still returns what has arrived
// before: it may be the daemon that stood still, and not the client.
func (c *peerConn) Read(p []byte) (int, error) {
	n, err := c.UnixConn.Read(p)
	if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	if late := c.arrived(p); late > 0 {
		return late, nil
	}
	return n, err
}

// arrived reads without waiting, and returns 0 if there is nothing.
func (c *peerConn) arrived(p []byte) int {
	raw, err := c.SyscallConn()
	if err != nil || len(p) == 0 {
		return 0
	}
	n := 0
	if raw.Control(func(fd uintptr) { n, _, err = unix.Recvfrom(int(fd), p, unix.MSG_DONTWAIT) }) != nil || err != nil {
		return 0
	}
	return n
}
