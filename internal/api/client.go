package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"banger/internal/fault"
	"banger/internal/requestid"
	"banger/internal/step"
)

const (
	// Generation counts incompatible changes of this API. A client states its own in
	// HeaderGeneration. The daemon refuses a request of another generation before it does anything.
	Generation = 2
	// HeaderGeneration is optional. Without it the request counts as one of the daemon's
	// generation.
	HeaderGeneration = "Banger-Api"
	// HeaderRequestID holds the id of a request: always in the answer, and in the request if the
	// client chooses the id. requestid.Valid says which ids a client may choose.
	HeaderRequestID = "Banger-Request-Id"
	// Host is the only Host header that the daemon accepts. A web page that makes a browser send
	// requests here cannot set it.
	Host = "banger"
)

// mediaBytes is the media type of content whose format the daemon recognises by itself.
const mediaBytes = "application/octet-stream"

// maxReply bounds a JSON reply, bytes: a list of 10,000 VMs is about 20 MB.
const maxReply = 64 << 20

// Client speaks to the daemon. It is safe for concurrent use. An error that the daemon reported is
// an *Error. All errors have a fault kind.
type Client struct {
	socket string
	http   *http.Client

	mu    sync.Mutex
	first net.Conn // opened by Connect, for the first request to use
}

// Dial returns a client for the daemon that listens on the unix socket. The client connects at the
// first request. Connect connects at once and can start the daemon.
func Dial(socket string) *Client {
	c := &Client{socket: socket}
	c.http = &http.Client{
		Transport: &http.Transport{
			DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
			DisableCompression: true,
			// An upload begins after the daemon has agreed, so that a refusal is not lost in a
			// broken pipe.
			ExpectContinueTimeout: 10 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

// Socket is the path of the socket that the client connects to.
func (c *Client) Socket() string { return c.socket }

// Close closes idle connections. Streams and requests under way continue.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first != nil {
		c.first.Close()
		c.first = nil
	}
	c.http.CloseIdleConnections()
	return nil
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	c.mu.Lock()
	conn := c.first
	c.first = nil
	c.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	return dialDaemon(ctx, c.socket)
}

// dialDaemon connects to the socket and checks who listens there. In a directory like /tmp, anybody
// could have created a socket of that name first.
func dialDaemon(ctx context.Context, socket string) (net.Conn, error) {
	conn, err := dialUnix(ctx, socket)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if errors.Is(err, fs.ErrPermission) {
			return nil, fault.New(fault.Denied, "connecting to bangerd: %w", err).WithHint("It answers to its own user and root only.")
		}
		if errors.Is(err, syscall.ENOTDIR) {
			return nil, unusableHome(fault.Denied, fmt.Errorf("connecting to bangerd: %w", err))
		}
		return nil, fault.New(fault.Unavailable, "connecting to bangerd: %w", err).WithHint("Start it with `banger daemon start`.")
	}
	peer, err := PeerOf(conn)
	if err == nil && !peer.trusted() {
		err = fault.New(fault.Denied, "the program that listens on %s belongs to user %d", socket, peer.UID)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// dialUnix connects. The kernel answers EAGAIN while the queue of waiting clients is full
// (connect(2)). It cannot report when there is room, so dialUnix asks again, less and less often.
func dialUnix(ctx context.Context, socket string) (net.Conn, error) {
	const atMost = 50 * time.Millisecond
	for pause := time.Millisecond; ; pause = min(2*pause, atMost) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", socket)
		if !errors.Is(err, syscall.EAGAIN) {
			return conn, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
	}
}

// query is one request to the daemon.
type query struct {
	method, target string
	in             any           // the body: nil, an io.Reader, or a value that is sent as JSON
	media          string        // media type of a body that is a reader; a tar stream if unset
	report         step.Reporter // receives the operation's steps; nil requests none
}

// ask sends a request and returns the decoded answer.
func ask[T any](ctx context.Context, c *Client, q query) (T, error) {
	var out T
	err := c.call(ctx, q, &out)
	return out, err
}

// call sends a request and decodes the answer into out, unless out is nil.
func (c *Client) call(ctx context.Context, q query, out any) error {
	req, err := newRequest(ctx, q.method, q.target, q.in)
	if err != nil {
		return err
	}
	if q.media != "" {
		req.Header.Set("Content-Type", q.media)
	}
	if q.report != nil {
		req.Header.Set("Accept", MediaSSE)
	}
	resp, err := c.do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if strings.HasPrefix(resp.Header.Get("Content-Type"), MediaSSE) {
		return c.orCanceled(ctx, readEvents(resp.Body, q.report, out))
	}
	if out == nil || resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxReply)).Decode(out); err != nil {
		return c.orCanceled(ctx, lostDaemon(err))
	}
	return nil
}

// do sends the request. Any answer that is not a success becomes an error.
func (c *Client) do(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // the URL of every request is the same
		}
		return nil, c.orCanceled(req.Context(), lostDaemon(err))
	}
	if err := responseErr(resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

func (c *Client) orCanceled(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// responseErr returns nil for a success, which includes an upgrade.
func responseErr(resp *http.Response) error {
	if resp.StatusCode < 300 {
		return nil
	}
	var p Problem
	err := json.NewDecoder(io.LimitReader(resp.Body, maxEvent)).Decode(&p)
	if err != nil || p.Kind == "" {
		return statusErr(resp.StatusCode)
	}
	return p.Err()
}

func newRequest(ctx context.Context, method, target string, in any) (*http.Request, error) {
	var body io.Reader
	stream, streams := in.(io.Reader)
	switch {
	case streams:
		body = stream
	case in != nil:
		data, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encoding the request: %w", err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+Host+target, body)
	if err != nil {
		return nil, fault.New(fault.Invalid, "building the request: %w", err)
	}
	req.Header.Set(HeaderGeneration, strconv.Itoa(Generation))
	if id := requestid.From(ctx); id != "" {
		req.Header.Set(HeaderRequestID, id)
	}
	switch {
	case streams:
		req.Header.Set("Content-Type", "application/x-tar")
		req.Header.Set("Expect", "100-continue")
	case in != nil:
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// target returns the path of a named thing and of the operation on it. The name may hold any
// character.
func target(collection, ref, verb string, values url.Values) string {
	escaped := url.PathEscape(ref)
	if strings.Trim(ref, ".") == "" { // "." and ".." have a meaning in a path
		escaped = strings.ReplaceAll(ref, ".", "%2E")
	}
	t := "/v1/" + collection + "/" + escaped
	if verb != "" {
		t += "/" + verb
	}
	if len(values) > 0 {
		t += "?" + values.Encode()
	}
	return t
}
