// Package guest is the host's side of the agent in a running VM. It keeps the one session on the
// agent's channel, sends requests, checks the answers, and serves the streams that the guest opens.
//
// The guest is hostile. Every answer is bounded, and its errors and names pass through package
// report. A guest that does not answer costs the caller its deadline and nothing else. A guest
// reaches only the services that the Client was made with; without any, it reaches none.
package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"banger/internal/fault"
	"banger/internal/guest/channel"
)

// Client speaks to the agent of one VM. It connects at the first request, and again after the
// session has ended. It is safe for concurrent use.
type Client struct {
	dial     func(context.Context) (net.Conn, error)
	log      *slog.Logger
	services map[string]channel.Handler // fixed after New

	observe func(route string, took time.Duration)
	silence time.Duration // see maxSilence

	connecting singleflight.Group
	serving    sync.WaitGroup // of streams that the guest opened

	mu      sync.Mutex
	session *channel.Session
	closed  bool
	ended   context.Context // of the client
	end     context.CancelFunc
}

// Option changes a Client that New makes.
type Option func(*Client)

// WithService lets the guest open streams to a service, which handle serves. name is one of package
// proto's. The guest may do so at any time and as often as it likes: what comes through the stream
// is hostile input.
func WithService(name string, handle channel.Handler) Option {
	return func(c *Client) { c.services[name] = handle }
}

// New returns a Client that reaches the agent's channel through dial. Nothing is dialled yet.
func New(dial func(context.Context) (net.Conn, error), log *slog.Logger, options ...Option) *Client {
	c := &Client{dial: dial, log: log, services: make(map[string]channel.Handler), silence: maxSilence}
	c.ended, c.end = context.WithCancel(context.Background())
	for _, option := range options {
		option(c)
	}
	return c
}

// Observe has f called after each answered request with the route, without its query, and the time
// until the answer's head. Call it before the Client is used.
func (c *Client) Observe(f func(route string, took time.Duration)) *Client {
	c.observe = f
	return c
}

// Close ends the session and everything that uses it, and fails later calls. The machine continues.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	session := c.session
	c.session = nil
	c.mu.Unlock()
	c.end()
	var err error
	if session != nil {
		err = session.Close()
	}
	c.serving.Wait()
	return err
}

// Redial ends the present session, so that the next call begins another one. Call it when the
// transport may have lost its connections without a sign, as vsock does when a machine is saved or
// restored.
func (c *Client) Redial() {
	c.mu.Lock()
	s := c.session
	c.mu.Unlock()
	if s != nil {
		c.drop(s)
	}
}

// connectTime bounds one attempt to connect. Attempts outlive the callers that began them.
// Otherwise many callers with short deadlines would never hear from a guest that boots slowly.
const connectTime = 10 * time.Minute

// maxSessions is how many sessions one call may use up. A session can end unnoticed between two
// calls. A guest that ends each session at once must not keep the host busy.
const maxSessions = 3

// open opens a stream to the agent. If there is no session, it connects first.
func (c *Client) open(ctx context.Context) (net.Conn, error) {
	var last error
	for range maxSessions {
		session, err := c.connected(ctx)
		if err != nil {
			return nil, err
		}
		conn, err := session.Open(ctx)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, fault.New(fault.Unavailable, "waiting for the guest's agent: %w", context.Cause(ctx))
		}
		c.drop(session)
		last = err
	}
	return nil, fault.New(fault.Unavailable, "the guest's agent ends each session: %w", last)
}

// connected returns the live session, or makes one. Callers at the same time share the attempt.
func (c *Client) connected(ctx context.Context) (*channel.Session, error) {
	if s := c.live(); s != nil {
		return s, nil
	}
	result := c.connecting.DoChan("", func() (any, error) {
		if s := c.live(); s != nil {
			return s, nil
		}
		return c.connect(context.WithoutCancel(ctx))
	})
	select {
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*channel.Session), nil
	case <-ctx.Done():
		return nil, fault.New(fault.Unavailable, "waiting for the guest's agent: %w", context.Cause(ctx))
	}
}

func (c *Client) live() *channel.Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == nil {
		return nil
	}
	select {
	case <-c.session.Done():
		return nil
	default:
		return c.session
	}
}

var errClosed = errors.New("the connection to the guest was closed")

// connect makes a session. caller only carries values for the log.
func (c *Client) connect(caller context.Context) (*channel.Session, error) {
	c.mu.Lock()
	old := c.session
	c.session = nil
	c.mu.Unlock()
	if old != nil {
		old.Close()
	}
	ctx, cancel := context.WithTimeout(c.ended, connectTime)
	defer cancel()
	start := time.Now()
	raw, err := c.dial(ctx)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "connecting to the guest's channel: %w", err)
	}
	session, err := channel.Connect(ctx, raw)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		session.Close()
		return nil, fault.New(fault.Unavailable, "%w", errClosed)
	}
	c.session = session
	c.serving.Go(func() { session.ServeServices(c.services, c.log) })
	c.log.DebugContext(caller, "agent session", "took", time.Since(start), "generation", session.Generation())
	return session, nil
}

// drop ends a session and forgets it.
func (c *Client) drop(s *channel.Session) {
	c.mu.Lock()
	if c.session == s {
		c.session = nil
	}
	c.mu.Unlock()
	s.Close()
}

func routeError(method, route string, err error) error {
	return fmt.Errorf("asking the guest (%s %s): %w", method, route, err)
}
