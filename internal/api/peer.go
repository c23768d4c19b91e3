package api

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Peer is the program at the other end of a unix socket when it connected, or when it began to
// listen. The kernel reports it (SO_PEERCRED, unix(7)).
type Peer struct {
	PID int // 0 if this process cannot see the peer's pid namespace
	UID int
}

// PeerOf asks the kernel who is at the other end of conn, which must be a unix socket.
func PeerOf(conn net.Conn) (Peer, error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return Peer{}, fmt.Errorf("asking for the peer of a %T: not a unix socket", conn)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("asking for the peer: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err == nil {
		err = credErr
	}
	if err != nil {
		return Peer{}, fmt.Errorf("asking for the peer: %w", err)
	}
	return Peer{PID: int(cred.Pid), UID: int(cred.Uid)}, nil
}

// trusted reports whether this peer may be our daemon: it runs as our user or as root.
func (p Peer) trusted() bool { return p.UID == os.Geteuid() || p.UID == 0 }
