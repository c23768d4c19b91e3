package guest

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"banger/internal/fault"
)

// maxSilence is how long a guest may neither take nor send a byte while files are copied. It is as
// long as the channel's own patience, because a guest is frozen for a while to be saved.
const maxSilence = 5 * time.Minute

// watched is a stream of the guest's. With patience, a Read or Write fails if the guest is silent
// for that long. The time that the host needs between two of them does not count.
type watched struct {
	net.Conn
	patience time.Duration // 0: no bound

	sending atomic.Bool           // the request has a body that was not sent yet: no answer is due
	failed  atomic.Pointer[error] // why the request could not be sent
}

// openWatched opens a stream to the agent. patience bounds the opening, too.
func (c *Client) openWatched(ctx context.Context, patience time.Duration) (*watched, error) {
	if patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, patience, errSilent(patience))
		defer cancel()
	}
	conn, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	return &watched{Conn: conn, patience: patience}, nil
}

func errSilent(patience time.Duration) error {
	return fault.New(fault.Unavailable, "the guest was silent for %v", patience)
}

func (w *watched) Read(p []byte) (int, error) {
	if w.patience > 0 && !w.sending.Load() {
		w.Conn.SetReadDeadline(time.Now().Add(w.patience))
		// This may have replaced the deadline with which sent ends the wait.
		if failed := w.failed.Load(); failed != nil {
			return 0, *failed
		}
	}
	n, err := w.Conn.Read(p)
	if failed := w.failed.Load(); err != nil && failed != nil {
		return n, *failed
	}
	return n, w.explain(err)
}

func (w *watched) Write(p []byte) (int, error) {
	if w.patience > 0 {
		w.Conn.SetWriteDeadline(time.Now().Add(w.patience))
	}
	n, err := w.Conn.Write(p)
	return n, w.explain(err)
}

// explain names the guest's silence as the reason of an error.
func (w *watched) explain(err error) error {
	var timeout net.Error
	if w.patience > 0 && errors.As(err, &timeout) && timeout.Timeout() {
		return errSilent(w.patience)
	}
	return err
}

// sent ends the sending of the request. From now on an answer is due. No answer will come to half a
// request.
func (w *watched) sent(err error) {
	if err != nil {
		w.failed.Store(&err)
	}
	w.sending.Store(false)
	switch {
	case err != nil:
		w.Conn.SetReadDeadline(time.Unix(1, 0))
	case w.patience > 0:
		w.Conn.SetReadDeadline(time.Now().Add(w.patience))
	}
}
