// Package relay passes the frames of one command between a client and the agent in a guest.
//
// The guest is hostile, and the client may be. So no frame passes unparsed. Each direction has a
// closed list of frames, which depends on the phase of the command:
//
//	phase    from the guest                        to the guest
//	start    nothing                               the request, once
//	command  output, acknowledgements of input     input until its end, sizes, signals, a hang-up
//	end      an exit status or an error, once      nothing
//
// Any other frame breaks the protocol and ends the command with an error. Output and input pass
// byte for byte. Everything else is decoded, checked and encoded again. So a guest cannot send what
// only the daemon may send: an event, such as the name of a VM, or an error with a hint and a log.
package relay

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"banger/internal/fault"
	"banger/internal/guest/proto"
)

// ErrClient marks an error of the client's end: of a write to the client, or to a writer that
// takes a command's output.
var ErrClient = errors.New("passing the command's output on")

// ErrLost marks the error of a guest that is gone before the command's end.
var ErrLost = errors.New("the connection to the guest ended before the command did")

// Command is a command that runs in a guest. One goroutine may read its output while others call
// the other methods.
type Command struct {
	conn net.Conn
	out  *proto.Writer
	owed atomic.Int64 // bytes of input that the agent has not acknowledged

	inMu    sync.Mutex
	inEnded bool // the input's end was sent
}

// Start passes a request to the agent on a new stream, which the Command owns afterwards.
func Start(conn net.Conn, req proto.ExecRequest) (*Command, error) {
	payload, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encoding the command: %w", err)
	}
	c := &Command{conn: conn, out: proto.NewWriter(conn)}
	if err := c.out.WriteFrame(proto.FrameStart, payload); err != nil {
		return nil, fault.New(fault.Unavailable, "handing the command to the guest: %w", err)
	}
	return c, nil
}

// Close ends the stream, and so the command.
func (c *Command) Close() error { return c.conn.Close() }

// HangUp asks the agent to end the command. A guest that reads nothing blocks it until Close.
func (c *Command) HangUp() error { return c.out.WriteFrame(proto.FrameHangup, nil) }

// buffers hold what was read from guests: a few of the largest frames.
var buffers = sync.Pool{New: func() any { b := make([]byte, 4*(proto.HeaderSize+proto.MaxFrame)); return &b }}

// Output passes output and acknowledgements to the client until the agent reports the command's
// end. The caller tells the client how the command ended. The client gets whole frames only.
func (c *Command) Output(client io.Writer) (proto.Exit, error) {
	pooled := buffers.Get().(*[]byte)
	defer buffers.Put(pooled)
	buf, have := *pooled, 0
	for {
		n, readErr := c.conn.Read(buf[have:])
		have += n
		passed, end := c.output(buf[:have])
		if passed > 0 {
			if _, err := client.Write(buf[:passed]); err != nil {
				return proto.Exit{}, fmt.Errorf("%w: %w", ErrClient, err)
			}
		}
		switch {
		case end != nil:
			return end.exit, end.err
		case readErr != nil:
			return proto.Exit{}, lost(readErr)
		}
		have = copy(buf, buf[passed:have])
	}
}

// end is how a command ended.
type end struct {
	exit proto.Exit
	err  error
}

// output checks the whole frames at the beginning of b. It returns how many bytes of them pass, and
// the command's end if b holds it.
func (c *Command) output(b []byte) (passed int, ended *end) {
	for {
		kind, payload, size, err := proto.Cut(b[passed:])
		if err != nil {
			return passed, &end{err: broken(err)}
		}
		if size == 0 {
			return passed, nil
		}
		if ended := c.take(kind, payload); ended != nil {
			return passed, ended
		}
		passed += size
	}
}

// take checks one frame of the agent's. It returns the command's end if the frame is the last one.
func (c *Command) take(kind proto.FrameType, payload []byte) *end {
	switch kind {
	case proto.FrameStdout, proto.FrameStderr:
		return nil
	case proto.FrameAck:
		if len(payload) == 4 && c.owed.Add(-int64(binary.BigEndian.Uint32(payload))) >= 0 {
			return nil
		}
		return &end{err: broken(errors.New("it acknowledges input that it did not get"))}
	case proto.FrameExit:
		exit, err := ParseExit(payload)
		return &end{exit, err}
	case proto.FrameError:
		return &end{err: parseError(payload)}
	}
	return &end{err: broken(fmt.Errorf("it sends a frame of type %d", kind))}
}

// Collect is Output to two writers, which may be nil. stdin, which may be nil, gets the
// acknowledgements. It comes from Stdin.
func (c *Command) Collect(stdout, stderr io.Writer, stdin *proto.Stdin) (proto.Exit, error) {
	in := proto.NewReader(bufio.NewReaderSize(c.conn, proto.MaxFrame))
	for {
		kind, payload, err := in.ReadFrame()
		if err != nil {
			return proto.Exit{}, lost(err)
		}
		if ended := c.take(kind, payload); ended != nil {
			return ended.exit, ended.err
		}
		switch kind {
		case proto.FrameStdout:
			err = write(stdout, payload)
		case proto.FrameStderr:
			err = write(stderr, payload)
		case proto.FrameAck:
			if stdin != nil {
				stdin.Ack(payload)
			}
		}
		if err != nil {
			return proto.Exit{}, fmt.Errorf("%w: %w", ErrClient, err)
		}
	}
}

func write(w io.Writer, p []byte) error {
	if w == nil {
		return nil
	}
	_, err := w.Write(p)
	return err
}
