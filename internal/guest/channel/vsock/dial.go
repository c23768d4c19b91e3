package vsock

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
)

const (
	firstPause  = 5 * time.Millisecond   // between the first two attempts; it doubles ...
	lastPause   = 200 * time.Millisecond // ... up to this, because a boot takes seconds
	attemptTime = 5 * time.Second        // an attempt without an answer is given up and begun again
)

// errNobody means that no agent listens yet. Dialling again may help.
var errNobody = errors.New("nobody listens in the guest")

// Dialer is the host's end on a host kernel with AF_VSOCK. It implements channel.Dialer.
type Dialer struct {
	CID, Port uint32
}

// Dial connects to the guest. It waits until the agent listens, or ctx ends.
func (d Dialer) Dial(ctx context.Context) (net.Conn, error) { return persist(ctx, d.attempt) }

func (d Dialer) attempt(ctx context.Context) (net.Conn, error) {
	fd, err := newSocket()
	if err != nil {
		return nil, err
	}
	f, raw, err := pollable(fd, "vsock connection")
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	f.SetDeadline(deadline)
	if err := connect(raw, &unix.SockaddrVM{CID: d.CID, Port: d.Port}); err != nil {
		f.Close()
		return nil, err
	}
	f.SetDeadline(time.Time{})
	return &conn{File: f, remote: addr{cid: d.CID, port: d.Port}}, nil
}

// connect connects a non-blocking socket (connect(2), EINPROGRESS).
func connect(raw syscall.RawConn, to unix.Sockaddr) error {
	var err error
	begun := false
	waitErr := raw.Write(func(fd uintptr) bool {
		if !begun {
			begun = true
			err = unix.Connect(int(fd), to)
			return err != unix.EINPROGRESS
		}
		var code int
		if code, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err == nil && code != 0 {
			err = unix.Errno(code)
		}
		return true
	})
	if waitErr != nil {
		return waitErr
	}
	switch {
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ETIMEDOUT):
		return errors.Join(errNobody, err)
	}
	return err
}

// persist repeats attempts while nobody listens. An attempt gets attemptTime; any other error ends
// it.
func persist(ctx context.Context, attempt func(context.Context) (net.Conn, error)) (net.Conn, error) {
	pause := firstPause
	for {
		tryCtx, cancel := context.WithTimeout(ctx, attemptTime)
		conn, err := attempt(tryCtx)
		slow := tryCtx.Err() != nil
		cancel()
		switch {
		case err == nil:
			return conn, nil
		case ctx.Err() != nil:
			return nil, fault.New(fault.Unavailable, "waiting for the agent on vsock: %w", context.Cause(ctx))
		case !slow && !errors.Is(err, errNobody):
			return nil, fault.New(fault.Unavailable, "connecting to the agent on vsock: %w", err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		pause = min(2*pause, lastPause)
	}
}
