// Package vsock is the vsock transport of the agent's channel (vsock(7)): the guest listens on a
// port, the host connects.
//
// A session uses one connection. Unlike a virtio-serial port, vsock reports the end of a
// connection, and a new connection never meets bytes of an old one. A connection may end at any
// time: saving a machine ends all of them. The host then dials again. Connections that the host has
// not noticed to be dead do no harm, because the guest serves the newest one.
//
// The host reaches the guest in one of two ways. Dialer uses the host kernel's AF_VSOCK
// (vhost-vsock). Hybrid uses the unix socket of Firecracker, which speaks a line of text before the
// stream begins.
package vsock

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// addr is a vsock address.
type addr struct {
	cid, port uint32
}

func (addr) Network() string { return "vsock" }

func (a addr) String() string {
	return strconv.FormatUint(uint64(a.cid), 10) + ":" + strconv.FormatUint(uint64(a.port), 10)
}

func addrOf(sa unix.Sockaddr) addr {
	if vm, ok := sa.(*unix.SockaddrVM); ok {
		return addr{cid: vm.CID, port: vm.Port}
	}
	return addr{}
}

// conn is a connected socket. Package net knows no AF_VSOCK, but a pollable os.File has all that a
// net.Conn needs.
type conn struct {
	*os.File
	local, remote addr
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// newSocket returns a non-blocking stream socket.
func newSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("making a vsock socket: %w", err)
	}
	return fd, nil
}

// pollable wraps a non-blocking descriptor, which it takes over.
func pollable(fd int, name string) (*os.File, syscall.RawConn, error) {
	f := os.NewFile(uintptr(fd), name)
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("setting up a vsock socket: %w", err)
	}
	return f, raw, nil
}
