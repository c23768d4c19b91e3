package agent

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"banger/internal/guest/channel"
)

// acceptPause is the wait after a failed accept, so that a lasting failure costs no CPU.
const acceptPause = 100 * time.Millisecond

// sessions serves one host at a time: the newest. A host that comes back may find that the agent
// has not noticed the end of its last connection. It must not have to wait for that.
type sessions struct {
	log    *slog.Logger
	server *http.Server
	all    sync.WaitGroup

	mu       sync.Mutex
	greeting io.Closer        // the raw connection whose handshake is under way
	session  *channel.Session // the session that runs
}

// serve returns when ctx has ended and no session runs.
func (s *sessions) serve(ctx context.Context, listener channel.Listener) {
	defer s.all.Wait()
	for ctx.Err() == nil {
		raw, err := listener.Accept(ctx)
		if err != nil {
			s.log.Debug("accepting a host", "error", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		s.greet(raw)
		s.all.Go(func() { s.handle(ctx, raw) })
	}
}

// greet notes a handshake that begins, and ends an earlier one that is still under way.
func (s *sessions) greet(raw io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.greeting != nil {
		s.greeting.Close()
	}
	s.greeting = raw
}

// greeted notes that a handshake is over.
func (s *sessions) greeted(raw io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.greeting == raw {
		s.greeting = nil
	}
}

// handle serves one connection to its end. A connection on which no host speaks ends no session.
func (s *sessions) handle(ctx context.Context, raw io.ReadWriteCloser) {
	session, err := channel.Accept(ctx, raw)
	s.greeted(raw)
	if err != nil {
		s.log.Debug("no session", "error", err)
		return
	}
	defer session.Close()
	stop := context.AfterFunc(ctx, func() { session.Close() })
	defer stop()
	s.replace(session)
	err = s.server.Serve(session)
	s.log.Debug("session over", "error", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == session {
		s.session = nil
	}
}

// replace makes a session the current one and ends the one before.
func (s *sessions) replace(session *channel.Session) {
	s.mu.Lock()
	previous := s.session
	s.session = session
	s.mu.Unlock()
	if previous != nil {
		previous.Close()
	}
}
