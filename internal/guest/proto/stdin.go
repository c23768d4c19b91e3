package proto

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"
)

// StdinWindow bounds the bytes of standard input under way. Beyond it, a sender waits for
// acknowledgements. Otherwise a command that reads no input would fill the stream, and no signal
// could pass.
const StdinWindow = 256 << 10

// ErrStdinClosed is returned by a Stdin after Close.
var ErrStdinClosed = errors.New("standard input is closed")

// frameWriter takes whole frames: a Writer, or one who checks them first.
type frameWriter interface {
	WriteFrame(t FrameType, payload []byte) error
}

// Stdin sends a command's standard input within StdinWindow. The goroutine that reads the stream
// passes FrameAck frames to Ack. All methods are safe for concurrent use.
type Stdin struct {
	w frameWriter

	mu     sync.Mutex
	cond   *sync.Cond
	room   int
	closed bool
}

// NewStdin returns a Stdin that sends frames through w.
func NewStdin(w frameWriter) *Stdin {
	s := &Stdin{w: w, room: StdinWindow}
	s.cond = sync.NewCond(&s.mu)
	return s
}

// Write sends p. It waits while too much is under way.
func (s *Stdin) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		k, err := s.take(min(len(p)-n, MaxFrame))
		if err != nil {
			return n, err
		}
		if err := s.w.WriteFrame(FrameStdin, p[n:n+k]); err != nil {
			return n, err
		}
		n += k
	}
	return n, nil
}

// take waits for room and takes up to want bytes of it.
func (s *Stdin) take(want int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.room == 0 && !s.closed {
		s.cond.Wait()
	}
	if s.closed {
		return 0, ErrStdinClosed
	}
	k := min(want, s.room)
	s.room -= k
	return k, nil
}

// Ack handles a FrameAck's payload. It ignores a malformed one, because the other side is not
// trusted.
func (s *Stdin) Ack(payload []byte) {
	if len(payload) != 4 {
		return
	}
	n := binary.BigEndian.Uint32(payload)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.room = int(min(uint64(s.room)+uint64(n), StdinWindow))
	s.cond.Broadcast()
}

// Close sends the end of standard input and ends a Write that waits. It is idempotent.
func (s *Stdin) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	s.cond.Broadcast()
	s.mu.Unlock()
	if again {
		return nil
	}
	return s.w.WriteFrame(FrameStdin, nil)
}

// AckPayload is the payload of a FrameAck for n bytes.
func AckPayload(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

var _ io.WriteCloser = (*Stdin)(nil)
