package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"banger/internal/fault"
	"banger/internal/guest/proto"
)

// IO holds a command's standard streams. A nil Stdin is empty; a nil writer discards.
type IO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Exec runs a command to its end. The end of ctx hangs up on the command. Stdin may still be
// blocked in a Read when Exec returns.
func (c *Client) Exec(ctx context.Context, req proto.ExecRequest, streams IO) (proto.Exit, error) {
	conn, err := c.Upgrade(ctx, "/v1/exec")
	if err != nil {
		return proto.Exit{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	out := proto.NewWriter(conn)
	req.Stdin = streams.Stdin != nil
	if err := out.WriteJSON(proto.FrameStart, req); err != nil {
		return proto.Exit{}, fmt.Errorf("sending the command: %w", err)
	}
	stdin := proto.NewStdin(out)
	if streams.Stdin != nil {
		go func() {
			io.Copy(stdin, streams.Stdin)
			stdin.Close()
		}()
	}
	defer stdin.Close()
	exit, err := collect(proto.NewReader(conn), stdin, streams)
	if ctx.Err() != nil {
		err = fault.New(fault.Canceled, "running a command in the guest: %w", context.Cause(ctx))
	}
	return exit, err
}

// collect passes on a command's output until its last frame.
func collect(in *proto.Reader, stdin *proto.Stdin, streams IO) (proto.Exit, error) {
	for {
		t, payload, err := in.ReadFrame()
		if err != nil {
			return proto.Exit{}, fault.New(fault.Unavailable, "reading from the command: the guest's agent is gone: %w", err)
		}
		switch t {
		case proto.FrameStdout:
			err = write(streams.Stdout, payload)
		case proto.FrameStderr:
			err = write(streams.Stderr, payload)
		case proto.FrameAck:
			stdin.Ack(payload)
		case proto.FrameExit:
			return ParseExit(payload)
		case proto.FrameError:
			return proto.Exit{}, ParseError(payload)
		}
		if err != nil {
			return proto.Exit{}, fmt.Errorf("passing output on: %w", err)
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

// ParseExit reads a FrameExit's payload.
func ParseExit(payload []byte) (proto.Exit, error) {
	var e proto.Exit
	if err := json.Unmarshal(payload, &e); err != nil || e.Code < 0 || e.Code > 255 {
		return proto.Exit{}, fault.New(fault.Unavailable, "reading how the command ended: %w", errors.Join(err, errNotAnExit))
	}
	e.Signal = name(e.Signal)
	return e, nil
}

var errNotAnExit = errors.New("no exit status")

// ParseError reads a FrameError's payload.
func ParseError(payload []byte) error {
	var e proto.Error
	if err := json.Unmarshal(payload, &e); err != nil {
		return fault.New(fault.Unavailable, "reading the agent's error: %w", err)
	}
	return GuestError(e)
}
