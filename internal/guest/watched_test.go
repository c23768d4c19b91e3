package guest

import (
	"errors"
	"net"
	"testing"
	"time"
)

// TestSourceFailsAsTheWaitBegins lets the source of a copy fail just when the reader of the answer
// sets its deadline. The reader must not wait for the answer to half a request.
func TestSourceFailsAsTheWaitBegins(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	broken := errors.New("the source broke")
	meeting := &meetingConn{Conn: ours}
	w := &watched{Conn: meeting, patience: time.Minute}
	meeting.first = func() { w.sent(broken) }
	done := make(chan error, 1)
	go func() { _, err := w.Read(make([]byte, 1)); done <- err }()
	select {
	case err := <-done:
		if !errors.Is(err, broken) {
			t.Errorf("the reader returned %v, not why the source failed", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the reader still waits")
	}
	ours.Close()
}

// meetingConn calls first just before the first read deadline takes effect.
type meetingConn struct {
	net.Conn
	first func()
}

func (c *meetingConn) SetReadDeadline(at time.Time) error {
	if first := c.first; first != nil {
		c.first = nil
		first()
	}
	return c.Conn.SetReadDeadline(at)
}
