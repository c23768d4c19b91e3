package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/api"
	"banger/internal/socket"
)

// lookEvery is how often the listener looks whether its socket is still there.
const lookEvery = 2 * time.Second

// Listen listens on the socket for programs of this user and of root. If somebody removes it, the
// listener makes it anew. prepare makes the directory private, and fails unless the caller holds
// the directory's lock. So an existing socket belongs to a daemon that died.
func Listen(path string, prepare func() error, log *slog.Logger) (net.Listener, error) {
	spare, err := openSpare()
	if err != nil {
		return nil, err
	}
	l := &listener{path: path, prepare: prepare, uid: os.Geteuid(), log: log, spare: spare, closed: make(chan struct{})}
	if err := l.renew(); err != nil {
		return nil, errors.Join(err, spare.Close())
	}
	l.watching.Go(l.watch)
	return l, nil
}

// listener accepts connections of permitted users and closes all others. The directory's mode
// already keeps those out. This check holds even if the socket was passed on.
type listener struct {
	path    string
	prepare func() error
	uid     int
	log     *slog.Logger
	spare   *spare

	mu       sync.Mutex
	current  *net.UnixListener
	file     fs.FileInfo // of the socket
	isClosed bool
	closed   chan struct{}
	watching sync.WaitGroup
}

// renew makes the socket.
func (l *listener) renew() error {
	if err := l.prepare(); err != nil {
		return err
	}
	if err := os.Remove(l.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the socket of a dead daemon: %w", err)
	}
	// The directory is closed to everybody else, so nobody can connect before the socket is
	// restricted.
	next, err := socket.Listen(l.path)
	if err != nil {
		return err
	}
	err = os.Chmod(l.path, 0o600)
	var file fs.FileInfo
	if err == nil {
		file, err = os.Lstat(l.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("restricting %s: %w", l.path, err), next.Close())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed {
		return errors.Join(net.ErrClosed, next.Close(), os.Remove(l.path))
	}
	last := l.current
	l.current, l.file = next, file
	if last != nil {
		last.Close() // Accept continues with the new one
	}
	return nil
}

// isThere reports whether the path still names the socket.
func (l *listener) isThere() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, err := os.Lstat(l.path)
	return err == nil && os.SameFile(now, l.file)
}

// watch makes a lost socket anew. If that fails, it tries again, and reports the first failure.
func (l *listener) watch() {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	failed := false
	for {
		select {
		case <-l.closed:
			return
		case <-ticker.C:
		}
		if l.isThere() {
			continue
		}
		err := l.renew()
		switch {
		case err == nil:
			l.log.Warn("the socket was removed; it is back", "socket", l.path)
		case !failed:
			l.log.Error("making the lost socket anew", "socket", l.path, "error", err)
		}
		failed = err != nil
	}
}

// Accept waits for the next connection of a permitted user.
func (l *listener) Accept() (net.Conn, error) {
	for {
		l.mu.Lock()
		current := l.current
		l.mu.Unlock()
		conn, err := current.AcceptUnix()
		if err != nil {
			l.mu.Lock()
			replaced := l.current != current
			l.mu.Unlock()
			if replaced {
				continue
			}
			if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
				l.turnAway(current, err)
			}
			return nil, err // net/http waits a moment and tries again after a shortage
		}
		l.spare.refill()
		peer, err := api.PeerOf(conn)
		if err == nil && (peer.UID == l.uid || peer.UID == 0) {
			return &peerConn{UnixConn: conn, peer: peer}, nil
		}
		l.log.Warn("refusing a connection", "uid", peer.UID, "pid", peer.PID, "error", err)
		conn.Close()
	}
}

// Close stops listening and removes the socket, unless another one has its path.
func (l *listener) Close() error {
	there := l.isThere()
	l.mu.Lock()
	if l.isClosed {
		l.mu.Unlock()
		return net.ErrClosed
	}
	l.isClosed = true
	close(l.closed)
	err := errors.Join(l.current.Close(), l.spare.Close())
	l.mu.Unlock()
	l.watching.Wait()
	if there {
		err = errors.Join(err, os.Remove(l.path))
	}
	return err
}

// Addr returns the socket's address.
func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// peerConn is a connection with the identity of its peer.
type peerConn struct {
	*net.UnixConn
	peer api.Peer
}

// Actor is the caller of an operation.
type Actor struct {
	UID int
	PID int
}

// May reports whether the actor has the permission. The listener accepts only root and the daemon's
// own user, who could do all of this without the daemon.
func (a Actor) May(api.Permission) bool { return a.UID == os.Geteuid() || a.UID == 0 }

type actorKey struct{}

// withActor puts the peer of a connection into the context of its requests.
func withActor(ctx context.Context, conn net.Conn) context.Context {
	if c, ok := conn.(*peerConn); ok {
		return context.WithValue(ctx, actorKey{}, Actor{UID: c.peer.UID, PID: c.peer.PID})
	}
	return ctx
}

// ActorOf returns the caller of the operation that ctx belongs to.
func ActorOf(ctx context.Context) (Actor, bool) {
	a, ok := ctx.Value(actorKey{}).(Actor)
	return a, ok
}
