package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/step"
)

// ErrOutput marks an error of a writer that takes a command's output.
var ErrOutput = errors.New("writing the command's output")

// FrameReader is the source of a Receiver, such as a *Stream.
type FrameReader interface {
	ReadFrame() (proto.FrameType, []byte, error)
}

// Receiver passes on a command's output, events and end. Its fields are set before Receive. Each
// may be unset.
type Receiver struct {
	Stdout, Stderr io.Writer    // receive the command's output
	Stdin          *proto.Stdin // the sender of its input, for acknowledgements

	Started func() error     // called before the first output, and at EventExec
	Event   func(step.Event) // receives the events of a run or an exec
	Ended   func()           // called once, at the command's end
}

// result is how a command ended.
type result struct {
	exit proto.Exit
	err  error
}

// Receive reads frames until the stream ends and returns how the command ended. After the command's
// end the daemon may still have to clean up. A stream that ends before the command is an error.
func (r *Receiver) Receive(frames FrameReader) (proto.Exit, error) {
	var ended *result
	for {
		kind, payload, err := frames.ReadFrame()
		if err != nil {
			if ended == nil {
				ended = &result{err: lostCommand(err)}
			}
			return ended.exit, ended.err
		}
		told, err := r.take(kind, payload)
		if err != nil {
			return proto.Exit{}, err
		}
		if told != nil && ended == nil {
			ended = told
			if r.Ended != nil {
				r.Ended()
			}
		}
	}
}

func lostCommand(err error) error {
	lost := fault.New(fault.Unavailable, "the connection ended before the command did")
	if !errors.Is(err, io.EOF) {
		lost = fault.New(fault.Unavailable, "reading from the command: %w", err)
	}
	return lost.WithHint("Look into `banger daemon logs`; `banger ps` shows whether the VM still runs.")
}

// take handles one frame, and returns how the command ended if the frame says that.
func (r *Receiver) take(kind proto.FrameType, payload []byte) (*result, error) {
	switch kind {
	case proto.FrameEvent:
		return nil, r.event(payload)
	case proto.FrameStdout:
		return nil, r.output(r.Stdout, payload)
	case proto.FrameStderr:
		return nil, r.output(r.Stderr, payload)
	case proto.FrameAck:
		if r.Stdin != nil {
			r.Stdin.Ack(payload)
		}
	case proto.FrameExit:
		var exit proto.Exit
		if err := json.Unmarshal(payload, &exit); err != nil {
			return nil, fmt.Errorf("decoding the exit status: %w", err)
		}
		if r.Stdin != nil {
			r.Stdin.Close()
		}
		exit.Code &= 0xff
		return &result{exit: exit}, nil
	case proto.FrameError:
		return &result{err: FrameErr(payload)}, nil
	}
	return nil, nil // frames of other types are for newer clients
}

func (r *Receiver) event(payload []byte) error {
	var e step.Event
	if err := json.Unmarshal(payload, &e); err != nil {
		return fmt.Errorf("decoding an event: %w", err)
	}
	if r.Event != nil {
		r.Event(e)
	}
	if e.Step == EventExec {
		return r.start()
	}
	return nil
}

func (r *Receiver) start() error {
	if r.Started == nil {
		return nil
	}
	return r.Started()
}

func (r *Receiver) output(w io.Writer, payload []byte) error {
	if err := r.start(); err != nil {
		return err
	}
	if w == nil {
		return nil
	}
	if _, err := w.Write(payload); err != nil {
		return fmt.Errorf("%w: %w", ErrOutput, err)
	}
	return nil
}

// Streams are the byte streams of a command. A nil Stdin is empty; a nil writer drops what it gets.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// hangupGrace is how long the daemon may take to end a command after a hang-up.
const hangupGrace = 20 * time.Second

// Attach joins the streams to an exec stream's command and returns how the command ended. If ctx
// ends, Attach hangs up. It closes the Stream. A Read from Stdin may outlive Attach.
func (s *Stream) Attach(ctx context.Context, streams Streams) (proto.Exit, error) {
	defer s.Close()
	stdin := s.Stdin()
	defer stdin.Close()
	go func() {
		if streams.Stdin != nil {
			_, _ = io.Copy(stdin, streams.Stdin)
		}
		_ = stdin.Close()
	}()
	ended := make(chan struct{})
	defer close(ended)
	stop := context.AfterFunc(ctx, func() {
		go func() { _ = s.WriteFrame(proto.FrameHangup, nil) }() // may block
		grace := time.NewTimer(hangupGrace)
		defer grace.Stop()
		select {
		case <-ended:
		case <-grace.C:
			_ = s.Close()
		}
	})
	defer stop()
	receiver := Receiver{Stdout: streams.Stdout, Stderr: streams.Stderr, Stdin: stdin}
	exit, err := receiver.Receive(s)
	if ctx.Err() != nil {
		return proto.Exit{}, context.Cause(ctx)
	}
	return exit, err
}
