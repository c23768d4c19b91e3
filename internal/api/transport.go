package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"banger/internal/fault"
	"banger/internal/requestid"
	"banger/internal/step"
)

// maxReply bounds a JSON reply, bytes: a list of 10,000 VMs is about 20 MB.
const maxReply = 64 << 20

// transport sends requests to the daemon and decodes its answers. It knows no operation. Upgrades
// to streams are in stream.go.
type transport struct {
	socket string
	http   *http.Client
	silent func(pid int)                             // see OnSilence; may be nil
	once   sync.Once                                 // for silent
	again  func(context.Context) (*transport, error) // connects to the next daemon; may be nil

	mu    sync.Mutex
	first net.Conn // opened by Connect, for the first request to use
}

func newTransport(socket string) *transport {
	t := &transport{socket: socket}
	t.http = &http.Client{
		Transport: &http.Transport{
			DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return t.dial(ctx) },
			DisableCompression: true,
			// An upload begins after the daemon has agreed, so that a refusal is not lost in a
			// broken pipe.
			ExpectContinueTimeout: 10 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return t
}

// close closes idle connections.
func (t *transport) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.first != nil {
		t.first.Close()
		t.first = nil
	}
	t.http.CloseIdleConnections()
}

func (t *transport) dial(ctx context.Context) (net.Conn, error) {
	t.mu.Lock()
	conn := t.first
	t.first = nil
	t.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	return dialDaemon(ctx, t.socket)
}

// reconnect connects to the next daemon, for the next request to use.
func (t *transport) reconnect(ctx context.Context) error {
	next, err := t.again(ctx)
	if err != nil {
		return err
	}
	conn, err := next.dial(ctx)
	if err != nil {
		return err
	}
	t.close()
	t.mu.Lock()
	t.first = conn
	t.mu.Unlock()
	return nil
}

// query is one request to the daemon.
type query struct {
	method, target string
	in             any           // the body: nil, an io.Reader, or a value that is sent as JSON
	media          string        // media type of a body that is a reader; a tar stream if unset
	report         step.Reporter // receives the operation's steps; nil requests none
}

// ask sends a request and returns the decoded answer.
func ask[T any](ctx context.Context, t *transport, q query) (T, error) {
	var out T
	err := t.call(ctx, q, &out)
	return out, err
}

// call sends a request and decodes the answer into out, unless out is nil.
func (t *transport) call(ctx context.Context, q query, out any) error {
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
	resp, err := t.do(req)
	if q.method == http.MethodGet && isLost(err) && t.again != nil && ctx.Err() == nil {
		if err = t.reconnect(ctx); err == nil {
			resp, err = t.do(req)
		}
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if strings.HasPrefix(resp.Header.Get("Content-Type"), MediaSSE) {
		return orCanceled(ctx, readEvents(resp.Body, q.report, out))
	}
	if out == nil || resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxReply)).Decode(out); err != nil {
		return orCanceled(ctx, lostDaemon(err))
	}
	return nil
}

// do sends the request. Any answer that is not a success becomes an error.
func (t *transport) do(req *http.Request) (*http.Response, error) {
	over := t.listen(req.Context())
	resp, err := t.http.Do(req)
	over()
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // the URL of every request is the same
		}
		return nil, orCanceled(req.Context(), lostDaemon(err))
	}
	if err := responseErr(resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// orCanceled returns the cause of ctx's end rather than the error that the end led to.
func orCanceled(ctx context.Context, err error) error {
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

// open returns the body of an answer that is not JSON. If the daemon ends the body early, reading
// ends with the reason.
func (t *transport) open(ctx context.Context, target string) (io.ReadCloser, error) {
	req, err := newRequest(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("TE", "trailers")
	req.Header.Set("Connection", "TE") // RFC 9110, section 10.1.4
	resp, err := t.do(req)
	if err != nil {
		return nil, err
	}
	return whole{resp.Body, resp}, nil
}

// fetch returns the complete body of an answer that is not JSON.
func (t *transport) fetch(ctx context.Context, target string) ([]byte, error) {
	body, err := t.open(ctx, target)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, maxReply))
	if err != nil {
		return nil, orCanceled(ctx, lostDaemon(err))
	}
	return data, nil
}
