// Package guest is the host's side of the agent in a running VM: it keeps the one session on the agent's channel, asks, and checks
// what comes back.
//
// The guest is hostile: every answer is bounded, an error's kind must be one of package fault's, and its message is cleaned before
// anybody prints it. A guest that does not answer costs the caller its deadline and nothing else.
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

// Client speaks to the agent of one VM. It connects when it is first needed and again when the session has died. It is safe
// for concurrent use.
type Client struct {
	dial func(context.Context) (net.Conn, error)
	log  *slog.Logger

	connecting singleflight.Group

	mu      sync.Mutex
	session *channel.Session
	closed  bool
	ended   context.Context // of the client
	end     context.CancelFunc
}

// New returns a Client that reaches the agent's channel through dial. Nothing is dialled yet.
func New(dial func(context.Context) (net.Conn, error), log *slog.Logger) *Client {
	c := &Client{dial: dial, log: log}
	c.ended, c.end = context.WithCancel(context.Background())
	return c
}

// Close ends the session and all that goes through it, and fails later calls. The machine goes on.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	session := c.session
	c.session = nil
	c.mu.Unlock()
	c.end()
	if session != nil {
		return session.Close()
	}
	return nil
}

// connectTime bounds one attempt to connect. Attempts outlive the callers that began them, so that many short deadlines
// do not keep a slow boot from being heard.
const connectTime = 10 * time.Minute

// open opens a stream to the agent, connecting when there is no session.
func (c *Client) open(ctx context.Context) (net.Conn, error) {
	for {
		session, err := c.connected(ctx)
		if err != nil {
			return nil, err
		}
		conn, err := session.Open(ctx)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		c.drop(session) // it died unnoticed; the next one is new
	}
}

// connected returns the live session, making one when there is none. Callers at the same time share the attempt.
func (c *Client) connected(ctx context.Context) (*channel.Session, error) {
	if s := c.live(); s != nil {
		return s, nil
	}
	result := c.connecting.DoChan("", func() (any, error) {
		if s := c.live(); s != nil {
			return s, nil
		}
		return c.connect()
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

func (c *Client) connect() (*channel.Session, error) {
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
	c.log.Debug("agent session", "took", time.Since(start))
	return session, nil
}

// drop gives a session up.
func (c *Client) drop(s *channel.Session) {
	c.mu.Lock()
	if c.session == s {
		c.session = nil
	}
	c.mu.Unlock()
	s.Close()
}

// reset ends the present session, so that the next call begins another one.
func (c *Client) reset() {
	c.mu.Lock()
	s := c.session
	c.mu.Unlock()
	if s != nil {
		c.drop(s)
	}
}

func routeError(method, route string, err error) error {
	return fmt.Errorf("asking the guest (%s %s): %w", method, route, err)
}
