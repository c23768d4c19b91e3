// Package qmp is a client of QEMU's machine protocol (docs/interop/qmp-spec.txt of QEMU 7.2): one
// JSON object per line, a greeting, commands with replies, and events at any time.
//
// QEMU runs hostile guests, so it is not trusted. What it sends is bounded. A reply that no one
// waits for is dropped.
package qmp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxLine bounds one message, in bytes. The largest one that banger asks for has less than 100 KB.
const maxLine = 1 << 20

// Event is something that QEMU reports by itself.
type Event struct {
	Name string          // "SHUTDOWN"
	Data json.RawMessage // nil if it has none
}

// Error is QEMU's answer to a command that failed.
type Error struct {
	Class string `json:"class"` // "GenericError", "CommandNotFound", ...
	Desc  string `json:"desc"`
}

func (e *Error) Error() string { return e.Desc }

// Client is a session on a monitor. It is safe for concurrent use.
type Client struct {
	conn    net.Conn
	onEvent func(Event)
	done    chan struct{} // closed when the reader has ended
	err     error         // why; set before done is closed

	writing sync.Mutex // held while a command is written

	mu      sync.Mutex
	lastID  uint64
	pending map[uint64]chan<- message
}

// message is anything that QEMU sends.
type message struct {
	QMP    json.RawMessage `json:"QMP"` // of the greeting
	Event  string          `json:"event"`
	Data   json.RawMessage `json:"data"`
	ID     *uint64         `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *Error          `json:"error"`
}

// Open owns conn, waits for the greeting and starts the session. When it returns, QEMU has made the
// machine: it answers commands only from its main loop. onEvent is called for each event, in order,
// from one goroutine. It must not call the Client.
func Open(ctx context.Context, conn net.Conn, onEvent func(Event)) (*Client, error) {
	c := &Client{conn: conn, onEvent: onEvent, done: make(chan struct{}), pending: map[uint64]chan<- message{}}
	greeted := make(chan struct{})
	go c.read(greeted)
	select {
	case <-greeted:
	case <-c.done:
		return nil, fmt.Errorf("waiting for QEMU's greeting: %w", c.err)
	case <-ctx.Done():
		_ = c.Close()
		return nil, fmt.Errorf("waiting for QEMU's greeting: %w", context.Cause(ctx))
	}
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// Done is closed when the session has ended, from either side.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the session, and returns after the last call of onEvent.
func (c *Client) Close() error {
	_ = c.conn.Close()
	<-c.done
	return nil
}

// Execute runs a command. args is encoded as its arguments, unless it is nil. The result is stored
// in reply, unless that is nil. If QEMU refuses the command, the error is an *Error.
func (c *Client) Execute(ctx context.Context, command string, args, reply any) error {
	return c.execute(ctx, command, args, nil, reply)
}

// Give runs a command that takes an open file and no arguments.
func (c *Client) Give(ctx context.Context, command string, f *os.File, reply any) error {
	return c.execute(ctx, command, nil, f, reply)
}

func (c *Client) execute(ctx context.Context, command string, args any, f *os.File, reply any) error {
	answer := make(chan message, 1)
	id := c.expect(answer)
	defer c.forget(id)
	if err := c.send(ctx, id, command, args, f); err != nil {
		return fmt.Errorf("sending %s to QEMU: %w", command, err)
	}
	select {
	case m := <-answer:
		return decode(m, command, reply)
	case <-c.done:
		select {
		case m := <-answer: // it was the last message
			return decode(m, command, reply)
		default:
			return fmt.Errorf("sending %s to QEMU: %w", command, c.err)
		}
	case <-ctx.Done():
		return fmt.Errorf("sending %s to QEMU: %w", command, context.Cause(ctx))
	}
}

func decode(m message, command string, reply any) error {
	if m.Error != nil {
		return fmt.Errorf("sending %s to QEMU: %w", command, m.Error)
	}
	if reply == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, reply); err != nil {
		return fmt.Errorf("reading QEMU's answer to %s: %w", command, err)
	}
	return nil
}

func (c *Client) expect(answer chan<- message) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastID++
	c.pending[c.lastID] = answer
	return c.lastID
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
}

func (c *Client) send(ctx context.Context, id uint64, command string, args any, f *os.File) error {
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, args, id})
	if err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.conn.SetWriteDeadline(time.Time{}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	return c.write(append(line, '\n'), f)
}

// write sends a line, and an open file with it (unix(7), SCM_RIGHTS).
func (c *Client) write(line []byte, f *os.File) error {
	if f == nil {
		_, err := c.conn.Write(line)
		return err
	}
	conn, ok := c.conn.(*net.UnixConn)
	if !ok {
		return errors.New("only a unix socket carries open files")
	}
	n, _, err := conn.WriteMsgUnix(line, unix.UnixRights(int(f.Fd())), nil)
	if err == nil && n < len(line) {
		_, err = conn.Write(line[n:])
	}
	return err
}

// read delivers what QEMU sends, until the session ends. The first message must be the greeting.
// Events may precede it: QEMU 7.2 sends those that occur after it accepted the connection
// (monitor_qapi_event_emit).
func (c *Client) read(greeted chan<- struct{}) {
	defer close(c.done)
	lines := bufio.NewScanner(c.conn)
	lines.Buffer(make([]byte, 0, 4<<10), maxLine)
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			c.fail(fmt.Errorf("reading from QEMU: %w", err))
			return
		}
		switch {
		case m.Event != "":
			c.onEvent(Event{Name: m.Event, Data: m.Data})
		case greeted != nil:
			if m.QMP == nil {
				c.fail(fmt.Errorf("reading from QEMU: %.80q is not a greeting", line))
				return
			}
			close(greeted)
			greeted = nil
		case m.ID != nil:
			c.deliver(*m.ID, m)
		}
	}
	err := lines.Err()
	if err == nil {
		err = errors.New("QEMU closed the connection")
	}
	c.fail(err)
}

func (c *Client) fail(err error) {
	c.err = err
	_ = c.conn.Close()
}

func (c *Client) deliver(id uint64, m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if answer, ok := c.pending[id]; ok {
		answer <- m // its buffer holds the one answer
		delete(c.pending, id)
	}
}
