package proto

import (
	"bufio"
	"io"
	"net"
	"sync"
)

// Tunnel is one end of a dial stream: a net.Conn over frames, in which one direction can end alone,
// as with TCP. Both ends send FrameStdin frames; an empty one ends that direction. It is safe for
// concurrent use.
type Tunnel struct {
	net.Conn
	in  *Reader
	out *Writer

	readMu sync.Mutex
	rest   []byte // of the frame that was read last
	ended  bool
}

// NewTunnel returns a Tunnel over an upgraded connection.
func NewTunnel(c net.Conn) *Tunnel {
	return &Tunnel{Conn: c, in: NewReader(bufio.NewReaderSize(c, 32<<10)), out: NewWriter(c)}
}

// Read reads what the other end wrote. It returns io.EOF after its CloseWrite.
func (t *Tunnel) Read(p []byte) (int, error) {
	t.readMu.Lock()
	defer t.readMu.Unlock()
	for len(t.rest) == 0 {
		if t.ended {
			return 0, io.EOF
		}
		kind, payload, err := t.in.ReadFrame()
		if err != nil {
			return 0, err
		}
		if kind != FrameStdin {
			continue
		}
		t.rest, t.ended = payload, len(payload) == 0
	}
	n := copy(p, t.rest)
	t.rest = t.rest[n:]
	return n, nil
}

// Write sends p.
func (t *Tunnel) Write(p []byte) (int, error) { return t.out.Stream(FrameStdin).Write(p) }

// CloseWrite ends this end's direction.
func (t *Tunnel) CloseWrite() error { return t.out.WriteFrame(FrameStdin, nil) }
