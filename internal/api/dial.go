package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"
	"time"

	"banger/internal/fault"
	"banger/internal/home"
	"banger/internal/socket"
)

// dialDaemon connects to the socket and checks who listens there. In a directory like /tmp, anybody
// could have created a socket of that name first.
func dialDaemon(ctx context.Context, path string) (net.Conn, error) {
	conn, err := dialUnix(ctx, path)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if errors.Is(err, fs.ErrPermission) {
			return nil, fault.New(fault.Denied, "connecting to bangerd: %w", err).WithHint("It answers to its own user and root only.")
		}
		if errors.Is(err, syscall.ENOTDIR) {
			return nil, home.Unusable(fault.Denied, fmt.Errorf("connecting to bangerd: %w", err))
		}
		return nil, fault.New(fault.Unavailable, "connecting to bangerd: %w", err).WithHint("Start it with `banger daemon start`.")
	}
	peer, err := PeerOf(conn)
	if err == nil && !peer.trusted() {
		err = fault.New(fault.Denied, "the program that listens on %s belongs to user %d", path, peer.UID)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// dialUnix connects. The kernel answers EAGAIN while the queue of waiting clients is full
// (connect(2)). It cannot report when there is room, so dialUnix asks again, less and less often.
func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	const atMost = 50 * time.Millisecond
	for pause := time.Millisecond; ; pause = min(2*pause, atMost) {
		conn, err := socket.Dial(ctx, path)
		if !errors.Is(err, syscall.EAGAIN) {
			return conn, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
	}
}
