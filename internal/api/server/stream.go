package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/guest/relay"
	"banger/internal/model"
	"banger/internal/step"
)

// startTimeout is the time for a client to send the first frame after an upgrade.
const startTimeout = 10 * time.Second

// execStream reads the command, passes it to the guest's agent, and joins the client to it.
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
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	unwatch, err := c.onHangup(func() { cancel(errHangup) })
	if err != nil { // out of file descriptors: begin no command that nobody could end
		c.refuse(h.streamProblem(ctx, err, v.ID))
		return nil
	}
	defer unwatch()
	in := frames(c)
	var req proto.ExecRequest
	var command *relay.Command
	if err = readStart(c, in, &req); err == nil {
		if command, err = openExec(step.WithWaits(ctx, c.report), agent, req); err != nil {
			err = h.whyLost(ctx, v, err)
		}
	}
	if err != nil {
		c.refuse(h.streamProblem(ctx, err, v.ID))
		return nil
	}
	defer command.Close()
	c.report(step.Event{Step: api.EventExec, Phase: step.Done, Time: time.Now()})
	h.joinExec(ctx, cancel, v, command, c, in)
	return nil
}

// report sends an event before the command's output. A client that does not read it is noticed
// later.
func (c *client) report(e step.Event) {
	c.SetWriteDeadline(time.Now().Add(linger))
	_ = proto.NewWriter(c).WriteJSON(proto.FrameEvent, e)
	c.SetWriteDeadline(time.Time{})
}

// joinExec joins the client and a command until the command has ended or one of them is gone.
func (h guestHandlers) joinExec(
	ctx context.Context, cancel context.CancelCauseFunc, v model.VM, command *relay.Command, c *client, in *proto.Reader,
) {
	stop := context.AfterFunc(ctx, func() {
		command.Close()
		c.SetDeadline(time.Now().Add(linger))
	})
	defer stop()
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		if err := passInput(command, in); err != nil {
			cancel(err)
			_ = pump(io.Discard, c) // so that the client can finish sending
		}
	}()
	exit, err := command.Output(c)
	out := proto.NewWriter(c)
	switch {
	case err == nil:
		_ = out.WriteJSON(proto.FrameExit, exit)
	case !errors.Is(err, relay.ErrClient):
		problem := h.streamProblem(ctx, h.whyLost(ctx, v, err), v.ID)
		c.SetWriteDeadline(time.Now().Add(linger))
		_ = out.WriteJSON(proto.FrameError, problem)
	}
	command.Close()
	c.CloseWrite() // the client sees the end and closes, which ends passInput
	c.SetReadDeadline(time.Now().Add(linger))
	<-listening
}

// passInput passes the client's frames to a command until the client sends no more.
func passInput(command *relay.Command, in *proto.Reader) error {
	for {
		kind, payload, err := in.ReadFrame()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fault.New(fault.Invalid, "reading the client's frames: %w", err)
		}
		if err := command.WriteFrame(kind, payload); err != nil {
			return err
		}
	}
}

// readStart decodes the first frame of a stream into out.
func readStart(c *client, in *proto.Reader, out any) error {
	c.SetReadDeadline(time.Now().Add(startTimeout))
	t, payload, err := in.ReadFrame()
	c.SetReadDeadline(time.Time{})
	switch {
	case err != nil:
		return fault.New(fault.Invalid, "reading the stream's first frame: %w", err)
	case t != proto.FrameStart:
		return fault.New(fault.Invalid, "the stream's first frame has type %d, not %d", t, proto.FrameStart)
	}
	return decodeStrict(payload, out)
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

// checkSize refuses a command that does not fit into a frame.
func checkSize(req proto.ExecRequest) error {
	payload, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encoding the command: %w", err)
	}
	if len(payload) > proto.MaxFrame {
		return fault.New(fault.Invalid, "the command takes %d bytes; %d is the most", len(payload), proto.MaxFrame)
	}
	return nil
}
