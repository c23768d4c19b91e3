// Package channel makes a session of many streams out of the one raw byte stream between the host and the agent.
//
// # The handshake
//
// The raw stream is a virtio-serial port on QEMU. It keeps bytes of sessions that are over, and it does not reliably tell the guest
// that one host went away and another one came. So the host begins with a line that holds a nonce and repeats it until the agent's
// echo of that very nonce comes back; whatever comes before the echo is left over from earlier and is dropped. The agent looks for
// such a line between sessions, and a line (or anything else that is no frame) where a frame should begin ends the
// session that it has. It may eat a few lines in doing so, which is why the host repeats them.
//
// A session that died in the middle of a frame would swallow lines as the rest of that frame. A frame's payload has at most
// maxWrite bytes, so the host once sends that many bytes of filling when no echo comes.
//
// # The session
//
// After the echo the stream belongs to yamux (https://github.com/hashicorp/yamux/blob/master/spec.md), the agent being its server.
// Neither side sends yamux's pings: machines are paused, also for hours. Pings from the other side, and frames larger than
// ours, end the session, because yamux would queue an answer to each ping of a guest that does not read them.
//
// A stream's end is the end of both directions: whoever needs to close only one direction says so inside the stream.
package channel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

const (
	windowSize   = 1 << 20          // bytes on their way in one stream; facts of virtio-serial: smaller ones are slower
	backlog      = 64               // streams that are opened and not yet accepted
	writeTimeout = 5 * time.Minute  // the other side takes no bytes for that long: the write fails; it may be paused for a while
	openTimeout  = 5 * time.Minute  // the other side does not answer an opened stream: the session ends
	closeTimeout = 10 * time.Second // the other side does not close a stream that we closed: it is reset
)

// Session is a set of streams over one raw connection. Its methods are safe for concurrent use.
type Session struct {
	mux *yamux.Session
	raw io.Closer
}

// conn joins the parts of the raw stream that yamux needs.
type conn struct {
	io.Reader
	io.Writer
	io.Closer
}

func newSession(raw io.ReadWriteCloser, r io.Reader, server bool) (*Session, error) {
	cfg := yamux.DefaultConfig()
	cfg.AcceptBacklog = backlog
	cfg.EnableKeepAlive = false
	cfg.ConnectionWriteTimeout = writeTimeout
	cfg.MaxStreamWindowSize = windowSize
	cfg.StreamOpenTimeout = openTimeout
	cfg.StreamCloseTimeout = closeTimeout
	cfg.LogOutput = io.Discard
	start := yamux.Client
	if server {
		start = yamux.Server
	}
	mux, err := start(conn{&guard{r: r}, raw, raw}, cfg)
	if err != nil {
		return nil, fmt.Errorf("starting the multiplexer: %w", err)
	}
	return &Session{mux: mux, raw: raw}, nil
}

// Open opens a stream. It returns when the request is on its way, not when the other side has taken it up.
func (s *Session) Open(ctx context.Context) (net.Conn, error) {
	type result struct {
		st  *yamux.Stream
		err error
	}
	done := make(chan result, 1)
	go func() {
		st, err := s.mux.OpenStream()
		done <- result{st, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, fmt.Errorf("opening a stream: %w", r.err)
		}
		return &stream{Stream: r.st}, nil
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				r.st.Close()
			}
		}()
		return nil, fmt.Errorf("opening a stream: %w", context.Cause(ctx))
	}
}

// Accept waits for the other side to open a stream. It makes *Session a net.Listener.
func (s *Session) Accept() (net.Conn, error) {
	st, err := s.mux.AcceptStream()
	if err != nil {
		return nil, err
	}
	return &stream{Stream: st}, nil
}

// Addr returns an address that says nothing: a session has no place.
func (s *Session) Addr() net.Addr { return s.mux.Addr() }

// Done is closed when the session is over, whoever ended it.
func (s *Session) Done() <-chan struct{} { return s.mux.CloseChan() }

// Close ends the session, its streams and the raw connection.
func (s *Session) Close() error { return s.mux.Close() }

// maxWrite is the largest payload of a frame that either side sends.
const maxWrite = 64 << 10

// stream is a yamux stream whose Close closes both directions and never blocks.
type stream struct {
	*yamux.Stream
	once sync.Once
}

// Write splits what it writes into frames of at most maxWrite bytes: streams take turns, and a dead session cannot
// swallow more than that of the next one's handshake.
func (s *stream) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		w, err := s.Stream.Write(p[n:min(len(p), n+maxWrite)])
		n += w
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Close ends the stream. Yamux's own Close leaves readers waiting for the other side and waits itself while the raw
// connection is stuck; here readers return at once, and the news is sent behind the caller's back, within writeTimeout.
func (s *stream) Close() error {
	s.once.Do(func() {
		s.Stream.SetDeadline(time.Unix(1, 0))
		go s.Stream.Close()
	})
	return nil
}

// errNotOurs ends a session whose peer sends what a peer of ours never sends.
var errNotOurs = errors.New("not a frame of this protocol")

// Parts of a yamux frame's header: version, type, flags, stream, length (spec.md, "Framing").
const (
	frameHeader    = 12
	frameLength    = 8 // offset of the big-endian length
	typeData       = 0
	typeWindow     = 1
	typeGoAway     = 3
	yamuxVersion   = 0
	maxWindowDelta = 16 << 20
)

// guard passes on well-formed frames and fails at the first that is not. It sits below yamux, which is less strict.
type guard struct {
	r    io.Reader
	head [frameHeader]byte
	have int    // bytes of the header that were passed on
	body uint32 // bytes of the payload still to come
}

func (g *guard) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	if bad := g.check(p[:n]); bad != nil {
		return 0, bad
	}
	return n, err
}

func (g *guard) check(p []byte) error {
	for len(p) > 0 {
		if g.body > 0 {
			skip := min(int(g.body), len(p))
			g.body -= uint32(skip)
			p = p[skip:]
			continue
		}
		k := copy(g.head[g.have:], p)
		g.have += k
		p = p[k:]
		if g.head[0] != yamuxVersion {
			return errNotOurs
		}
		if g.have < frameHeader {
			return nil
		}
		g.have = 0
		if err := g.checkHead(); err != nil {
			return err
		}
	}
	return nil
}

func (g *guard) checkHead() error {
	b := g.head[frameLength:]
	length := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	switch {
	case g.head[1] == typeData && length <= maxWrite:
		g.body = length
		return nil
	case g.head[1] == typeWindow && length <= maxWindowDelta, g.head[1] == typeGoAway:
		return nil
	}
	return errNotOurs
}
