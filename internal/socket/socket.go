// Package socket connects to unix sockets and binds them, however long their paths are. The kernel
// takes at most 107 bytes (unix(7)). A longer path is reached through an open descriptor of its
// directory.
package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxPath is sizeof(sockaddr_un.sun_path) without the final NUL.
const maxPath = 107

// Reach calls use with a path that names the same file as path and is short enough for a socket.
// That path is valid only during the call.
func Reach(path string, use func(short string) error) error {
	if len(path) <= maxPath {
		return use(path)
	}
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", filepath.Dir(path), err)
	}
	defer unix.Close(dir)
	return use(fmt.Sprintf("/proc/self/fd/%d/%s", dir, filepath.Base(path)))
}

// Dial connects to a unix socket.
func Dial(ctx context.Context, path string) (conn net.Conn, err error) {
	err = Reach(path, func(short string) error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "unix", short)
		var failed *net.OpError
		if errors.As(err, &failed) {
			failed.Addr = &net.UnixAddr{Name: path, Net: "unix"}
		}
		return err
	})
	return conn, err
}

// Listen listens on a unix socket. The socket's file stays when the listener is closed, because
// only the caller knows whether the path still names it.
func Listen(path string) (l *net.UnixListener, err error) {
	err = Reach(path, func(short string) error {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}
