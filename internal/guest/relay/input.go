package relay

import (
	"encoding/json"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/guest/proto"
)

// WriteFrame passes one frame of the client's to the agent. It returns an error of kind
// fault.Invalid for a frame that no client may send now. It ignores a guest that is gone, because
// Output reports that.
func (c *Command) WriteFrame(kind proto.FrameType, payload []byte) error {
	switch kind {
	case proto.FrameStdin:
		c.input(payload)
	case proto.FrameResize:
		var size proto.Size
		if err := json.Unmarshal(payload, &size); err != nil {
			return fault.New(fault.Invalid, "reading the terminal's size: %w", err)
		}
		_ = c.out.WriteJSON(proto.FrameResize, size)
	case proto.FrameSignal:
		name := string(payload)
		if !strings.HasPrefix(name, "SIG") || unix.SignalNum(name) == 0 {
			return fault.New(fault.Invalid, "%.20q is no signal", name)
		}
		_ = c.out.WriteFrame(proto.FrameSignal, []byte(name))
	case proto.FrameHangup:
		_ = c.HangUp()
	default:
		return fault.New(fault.Invalid, "a client may not send a frame of type %d to a command", kind)
	}
	return nil
}

// Stdin returns a sender of the command's standard input, for a client in this process.
func (c *Command) Stdin() *proto.Stdin { return proto.NewStdin(c) }

// input passes a part of standard input, or its end. Input that crosses its end is dropped, because
// a client may close its input while it sends.
func (c *Command) input(payload []byte) {
	c.inMu.Lock()
	defer c.inMu.Unlock()
	if c.inEnded {
		return
	}
	c.inEnded = len(payload) == 0
	c.owed.Add(int64(len(payload)))
	_ = c.out.WriteFrame(proto.FrameStdin, payload)
}
