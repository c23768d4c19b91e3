package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"banger/internal/api"
	"banger/internal/home"
)

// Listen listens on the socket for programs of this user and of root. The caller holds the
// runtime directory's lock, so an existing socket belongs to a daemon that died.
func Listen(socket, dir string, log *slog.Logger) (net.Listener, error) {
	if err := home.PrivateDir(dir); err != nil {
		return nil, err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("removing the socket of a dead daemon: %w", err)
	}
	// The directory is closed to everybody else, so nobody can connect before the socket is
	// restricted.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", socket, err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restricting %s: %w", socket, err), l.Close())
	}
	return &listener{UnixListener: l, uid: os.Geteuid(), log: log}, nil
}

// listener accepts connections of permitted users and closes all others. The directory's mode
// already keeps those out. This check holds even if the socket was passed on.
type listener struct {
	*net.UnixListener
	uid int
	log *slog.Logger
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		peer, err := api.PeerOf(conn)
		if err == nil && (peer.UID == l.uid || peer.UID == 0) {
			return &peerConn{UnixConn: conn, peer: peer}, nil
		}
		l.log.Warn("refusing a connection", "uid", peer.UID, "pid", peer.PID, "error", err)
		conn.Close()
	}
}

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
