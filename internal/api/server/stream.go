package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/machine"
)

// startTimeout is the time for a client to send the first frame after an upgrade.
const startTimeout = 10 * time.Second

// execStream reads the command, passes it to the guest's agent, and joins the two streams.
func (h guestHandlers) execStream(w http.ResponseWriter, r *http.Request) error {
	if err := checkUpgrade(r); err != nil {
		return err
	}
	v, agent, unuse, err := h.use(r)
	if err != nil {
		return err
	}
	defer unuse()
	ctx, done, err := h.beginSession(r, v.ID)
	if err != nil {
		return err
	}
	defer done()
	c, err := upgrade(w)
	if err != nil {
		return err
	}
	defer c.Close()
	var req proto.ExecRequest
	start, err := readStart(c, proto.NewReader(c), &req)
	if err == nil {
		err = joinExec(ctx, agent, c, start)
	}
	if err != nil {
		c.refuse(h.streamProblem(ctx, err, v.ID))
	}
	return nil
}

func joinExec(ctx context.Context, agent machine.Agent, c *client, start []byte) error {
	guest, err := openExec(ctx, agent, start)
	if err != nil {
		return err
	}
	defer guest.Close()
	splice(ctx, c, guest, true)
	return nil
}

// readStart decodes the first frame of a stream into out and returns its payload.
func readStart(c *client, in *proto.Reader, out any) ([]byte, error) {
	c.SetReadDeadline(time.Now().Add(startTimeout))
	t, payload, err := in.ReadFrame()
	c.SetReadDeadline(time.Time{})
	switch {
	case err != nil:
		return nil, fault.New(fault.Invalid, "reading the stream's first frame: %w", err)
	case t != proto.FrameStart:
		return nil, fault.New(fault.Invalid, "the stream's first frame has type %d, not %d", t, proto.FrameStart)
	}
	return payload, decodeStrict(payload, out)
}

// refuse ends a stream with an error and waits a moment for the client to read it.
func (c *client) refuse(p api.StreamProblem) {
	c.SetDeadline(time.Now().Add(linger))
	if err := proto.NewWriter(c).WriteJSON(proto.FrameError, p); err == nil {
		c.CloseWrite()
		_ = pump(io.Discard, c)
	}
}

// frames returns a reader of frames with a large buffer.
func frames(r io.Reader) *proto.Reader {
	return proto.NewReader(bufio.NewReaderSize(r, proto.MaxFrame))
}

func encodeStart(req proto.ExecRequest) ([]byte, error) {
	payload, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encoding the command: %w", err)
	}
	if len(payload) > proto.MaxFrame {
		return nil, fault.New(fault.Invalid, "the command takes %d bytes; %d is the most", len(payload), proto.MaxFrame)
	}
	return payload, nil
}
