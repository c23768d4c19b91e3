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
	greeting io.Closer // the raw connection that waits for a hello
	current  io.Closer // the raw connection of the host that is served
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

// greet notes a connection that waits for a hello, and closes an earlier one that still waits.
func (s *sessions) greet(raw io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.greeting != nil {
		s.greeting.Close()
	}
	s.greeting = raw
}

// heard makes the connection of a host that has sent its hello the current one, and closes the one
// before. From the answer on the host may use its session, so no silent connection may end it. If a
// newer connection has closed raw, heard does nothing.
func (s *sessions) heard(raw io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.greeting != raw {
		return
	}
	s.greeting = nil
	if s.current != nil {
		s.current.Close()
	}
	s.current = raw
}

// over forgets a connection that has ended.
func (s *sessions) over(raw io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.greeting == raw {
		s.greeting = nil
	}
	if s.current == raw {
		s.current = nil
	}
}

// handle serves one connection to its end. A connection on which no host speaks ends no session.
func (s *sessions) handle(ctx context.Context, raw io.ReadWriteCloser) {
	defer s.over(raw)
	session, err := channel.Accept(ctx, raw, func() { s.heard(raw) })
	if err != nil {
		s.log.Debug("no session", "error", err)
		return
	}
	defer session.Close()
	stop := context.AfterFunc(ctx, func() { session.Close() })
	defer stop()
	err = s.server.Serve(session)
	s.log.Debug("session over", "error", err)
}
