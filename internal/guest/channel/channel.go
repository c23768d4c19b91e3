// Package channel makes a session of many streams out of one raw connection between the host and
// the agent.
//
// A transport supplies the raw connection: package serial (virtio-serial) or package vsock.
// Listener and Dialer are their contracts. Every transport carries the same session: a handshake
// with a nonce, then yamux, then HTTP/1.1 and upgraded streams. docs/internals/agent-protocol.md
// has the reasons and the bytes on the wire.
//
// Invariants: neither side sends yamux's pings. Neither side sends a data frame of more than
// maxWrite bytes. The guest opens streams only for services (service.go). A frame that breaks one
// of these rules ends the session (guard.go, ledger.go).
//
// The end of a stream is the end of both directions. To end only one direction, send a
// message inside the stream.
package channel

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

const (
	windowSize   = 1 << 20          // bytes under way per stream; less slows virtio-serial
	backlog      = 64               // streams that are opened and not yet accepted
	writeTimeout = 5 * time.Minute  // for one write: the other side may be paused for a while
	openTimeout  = 5 * time.Minute  // for the answer to an opened stream; then the session ends
	closeTimeout = 10 * time.Second // for the other side to close, too; then we reset

	// agentCloseTimeout is longer than closeTimeout. A reset drops what the host has not read yet,
	// such as a command's exit status. A daemon that was halted for a moment must still get it.
	agentCloseTimeout = 5 * time.Minute
)

// Session is a set of streams over one raw connection. Its methods are safe for concurrent use.
type Session struct {
	mux        *yamux.Session
	ledger     *ledger
	generation int
}

func newSession(raw io.ReadWriteCloser, r io.Reader, agent bool, generation int) (*Session, error) {
	cfg := yamux.DefaultConfig()
	cfg.AcceptBacklog = backlog
	cfg.EnableKeepAlive = false
	cfg.ConnectionWriteTimeout = writeTimeout
	cfg.MaxStreamWindowSize = windowSize
	cfg.StreamOpenTimeout = openTimeout
	cfg.StreamCloseTimeout = closeTimeout
	cfg.LogOutput = io.Discard
	start := yamux.Client
	if agent {
		start = yamux.Server
		cfg.StreamCloseTimeout = agentCloseTimeout
	}
	s := &Session{ledger: newLedger(), generation: generation}
	var err error
	if s.mux, err = start(newGuard(raw, r, s.ledger, agent), cfg); err != nil {
		return nil, fmt.Errorf("starting the multiplexer: %w", err)
	}
	return s, nil
}

// Generation is the protocol generation that the agent speaks. See package proto.
func (s *Session) Generation() int { return s.generation }

// Open opens a stream. It returns when the request is under way, before the other side has accepted
// it.
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

// Addr returns a placeholder: a session has no address.
func (s *Session) Addr() net.Addr { return s.mux.Addr() }

// Done is closed when the session has ended, whoever ended it.
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

// Write splits p into frames of at most maxWrite bytes. So streams take turns, and an unfinished
// frame of a dead session swallows no more than that of the next handshake.
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

// Close ends the stream. Readers return at once, unlike with yamux's own Close. The other side is
// informed in the background, within writeTimeout, because the raw connection may be stuck.
func (s *stream) Close() error {
	s.once.Do(func() {
		s.Stream.SetDeadline(time.Unix(1, 0))
		go s.Stream.Close()
	})
	return nil
}
