package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"

	"banger/internal/fault"
	"banger/internal/guest/proto"
)

// Stream is an exec or run stream: frames of package proto in both directions. One goroutine may
// read while any number of goroutines write.
type Stream struct {
	conn net.Conn
	in   *proto.Reader
	out  *proto.Writer
}

func newStream(conn net.Conn) *Stream {
	return &Stream{conn: conn, in: proto.NewReader(conn), out: proto.NewWriter(conn)}
}

// ReadFrame reads the next frame. Its payload is valid until the next call. After the last frame
// the error is io.EOF.
func (s *Stream) ReadFrame() (proto.FrameType, []byte, error) { return s.in.ReadFrame() }

// WriteFrame writes one frame.
func (s *Stream) WriteFrame(t proto.FrameType, payload []byte) error {
	return s.out.WriteFrame(t, payload)
}

// WriteJSON writes a frame with v as JSON.
func (s *Stream) WriteJSON(t proto.FrameType, v any) error { return s.out.WriteJSON(t, v) }

// Stdin returns the sender of the command's standard input, which needs the payloads of FrameAck
// frames. Call it once per stream.
func (s *Stream) Stdin() *proto.Stdin { return proto.NewStdin(s.out) }

// Writer returns a writer whose bytes travel as frames of one type.
func (s *Stream) Writer(t proto.FrameType) io.Writer { return s.out.Stream(t) }

// CloseWrite says that this side sends no more frames. To close only the command's standard input,
// close Stdin.
func (s *Stream) CloseWrite() error {
	if c, ok := s.conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// Close ends the stream and what the stream began.
func (s *Stream) Close() error { return s.conn.Close() }

// openStream opens a stream and sends its first frame.
func (t *transport) openStream(ctx context.Context, path string, start any) (*Stream, error) {
	payload, err := json.Marshal(start)
	if err != nil {
		return nil, fmt.Errorf("encoding the stream's start: %w", err)
	}
	if len(payload) > proto.MaxFrame {
		return nil, fault.New(fault.Invalid, "the command, its environment and its options take %d bytes; %d is the most",
			len(payload), proto.MaxFrame).WithHint("Put long arguments into a file, or pass them by standard input.")
	}
	conn, err := t.upgrade(ctx, path)
	if err != nil {
		return nil, err
	}
	s := newStream(conn)
	if err := s.WriteFrame(proto.FrameStart, payload); err != nil {
		conn.Close()
		return nil, lostDaemon(err)
	}
	return s, nil
}

// upgrade opens a stream of bytes on a connection of its own.
func (t *transport) upgrade(ctx context.Context, path string) (net.Conn, error) {
	req, err := newRequest(ctx, http.MethodPost, path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", proto.StreamProtocol)
	conn, err := t.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	over := t.listen(ctx)
	upgraded, err := handshake(conn, req)
	over()
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, orCanceled(ctx, err)
	}
	return upgraded, nil
}

func handshake(conn net.Conn, req *http.Request) (net.Conn, error) {
	if err := req.Write(conn); err != nil {
		return nil, lostDaemon(err)
	}
	r := bufio.NewReaderSize(conn, 32<<10)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, lostDaemon(err)
	}
	if err := responseErr(resp); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, statusErr(resp.StatusCode)
	}
	return &upgradedConn{Conn: conn, r: r}, nil
}

// upgradedConn reads first the bytes that arrived together with the response's head.
type upgradedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *upgradedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *upgradedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
