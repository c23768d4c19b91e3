package guest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/guest/report"
	"banger/internal/requestid"
)

// maxHead bounds a response's status line and header.
const maxHead = 64 << 10

// exchange is one request and its answer. It speaks HTTP/1.1 itself, one request per stream:
// net/http's client reads a response's head without our bounds and does not hand connections over.
type exchange struct {
	conn *watched
	head *headReader
	r    *bufio.Reader
	resp *http.Response
	stop func() bool
}

// headReader fails if a response's head is too long. The bound is lifted after the head was read.
type headReader struct {
	r    io.Reader
	left int // negative: no bound
}

func (h *headReader) Read(p []byte) (int, error) {
	if h.left == 0 {
		return 0, fmt.Errorf("the answer's head has more than %d bytes", maxHead)
	}
	if h.left > 0 && len(p) > h.left {
		p = p[:h.left]
	}
	n, err := h.r.Read(p)
	if h.left > 0 {
		h.left -= n
	}
	return n, err
}

// send opens a stream, sends the request and reads the answer's head. The end of ctx ends the
// exchange. The log line carries the id of the API request in ctx; the agent gets it, too.
func (c *Client) send(ctx context.Context, method, route string, header http.Header, body io.Reader) (*exchange, error) {
	return c.sendFor(ctx, method, route, header, body, 0)
}

// sendFor is send to a guest that may be silent for patience at a time; 0 means until ctx ends.
func (c *Client) sendFor(
	ctx context.Context, method, route string, header http.Header, body io.Reader, patience time.Duration,
) (*exchange, error) {
	start := time.Now()
	x, err := c.exchange(ctx, method, route, header, body, patience)
	c.log.DebugContext(ctx, "agent request", "method", method, "route", route, "took", time.Since(start), "error", err)
	return x, err
}

func (c *Client) exchange(
	ctx context.Context, method, route string, header http.Header, body io.Reader, patience time.Duration,
) (*exchange, error) {
	conn, err := c.openWatched(ctx, patience)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(method, "http://agent"+route, body)
	if err != nil {
		conn.Close()
		return nil, fault.New(fault.Invalid, "%w", err)
	}
	if header != nil {
		req.Header = header
	}
	if id := requestid.From(ctx); requestid.Valid(id) {
		req.Header.Set(proto.HeaderRequestID, id)
	}
	x := &exchange{conn: conn, head: &headReader{r: conn, left: maxHead}}
	x.r = bufio.NewReaderSize(x.head, 32<<10)
	x.stop = context.AfterFunc(ctx, func() { conn.Close() })
	begun := time.Now()
	if err := x.roundTrip(req); err != nil {
		x.Close()
		if ctx.Err() != nil {
			err = fault.New(fault.Unavailable, "%w", context.Cause(ctx))
		}
		return nil, err
	}
	if c.observe != nil {
		path, _, _ := strings.Cut(route, "?")
		c.observe(path, time.Since(begun))
	}
	return x, nil
}

// roundTrip writes and reads at the same time, because an agent may refuse a long body before it
// has read it.
func (x *exchange) roundTrip(req *http.Request) error {
	body := &source{r: req.Body}
	if req.Body != nil {
		req.Body = body
	}
	x.conn.sending.Store(req.Body != nil)
	go func() { x.conn.sent(req.Write(x.conn)) }()
	resp, err := http.ReadResponse(x.r, req)
	if failed := body.failed(); err != nil && failed != nil {
		return fmt.Errorf("reading what to send: %w", failed)
	}
	if err != nil {
		return report.Broken("reading the answer", err)
	}
	x.head.left = -1
	x.resp = resp
	return nil
}

// source is a request's body that keeps its read error. net/http does not pass that on.
type source struct {
	r   io.ReadCloser
	mu  sync.Mutex
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
	}
	return n, err
}

func (s *source) Close() error { return s.r.Close() }

func (s *source) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close ends the exchange and its stream.
func (x *exchange) Close() error {
	x.stop()
	return x.conn.Close()
}

// Read reads the answer's body.
func (x *exchange) Read(p []byte) (int, error) {
	n, err := x.resp.Body.Read(p)
	if err != nil && err != io.EOF {
		err = report.Broken("reading the answer", err)
	}
	return n, err
}

// call sends in as JSON and decodes the answer into out. If nil, there is no body or the answer is
// ignored.
func (c *Client) call(ctx context.Context, method, route string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encoding a request: %w", err)
		}
		body = bytes.NewReader(data)
	}
	x, err := c.send(ctx, method, route, nil, body)
	if err != nil {
		return routeError(method, route, err)
	}
	defer x.Close()
	err = x.decode(out)
	if ctx.Err() != nil {
		err = fault.New(fault.Unavailable, "%w", context.Cause(ctx))
	}
	if err != nil {
		return routeError(method, route, err)
	}
	return nil
}

// decode reads a whole answer.
func (x *exchange) decode(out any) error {
	data, err := io.ReadAll(io.LimitReader(x.resp.Body, proto.MaxReply+1))
	if err != nil {
		return report.Broken("reading the answer", err)
	}
	if len(data) > proto.MaxReply {
		return fault.New(fault.Unavailable, "the answer has more than %d bytes", proto.MaxReply)
	}
	if x.resp.StatusCode >= 400 {
		return x.refusal(data)
	}
	if x.resp.StatusCode != http.StatusOK {
		return fault.New(fault.Unavailable, "the agent answers with status %d", x.resp.StatusCode)
	}
	if out == nil {
		return nil
	}
	if kind, _, _ := mime.ParseMediaType(x.resp.Header.Get("Content-Type")); kind != "application/json" {
		return fault.New(fault.Unavailable, "the agent answers with no JSON")
	}
	if err := json.Unmarshal(data, out); err != nil {
		return report.Broken("decoding the answer", err)
	}
	return nil
}

// failure returns the answer's error, or nil if it has the wanted status.
func (x *exchange) failure(want int) error {
	if x.resp.StatusCode == want {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(x.resp.Body, proto.MaxReply))
	if err != nil {
		return report.Broken("reading the answer", err)
	}
	return x.refusal(data)
}

// refusal makes an error of an error answer. Agents answer in JSON. Only net/http's answer to an
// unknown route is text. No agent of ours sends another answer.
func (x *exchange) refusal(body []byte) error {
	kind, _, _ := mime.ParseMediaType(x.resp.Header.Get("Content-Type"))
	if x.resp.StatusCode == http.StatusNotFound && kind == "text/plain" {
		return fault.New(fault.Unsupported, "the agent in the VM is older than this banger and cannot do that").
			WithHint("Stop and start the VM: it then runs the agent of this banger.")
	}
	var e proto.Error
	if json.Unmarshal(body, &e) != nil || e.Kind == "" {
		return fault.New(fault.Unavailable, "the agent answers with status %d", x.resp.StatusCode)
	}
	return report.Error(e)
}
