package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/vm"
)

const (
	removeTimeout = 2 * time.Minute // for the VM of a run to be gone
	hangupGrace   = 2 * time.Second // for a guest to end a command and say so
)

var (
	errHangup      = fault.New(fault.Canceled, "the run was given up")
	errInterrupted = fault.New(fault.Canceled, "interrupted before the command ran")
	errTimedOut    = errors.New("the command's time is over")
)

// runStream is one run: a VM that is made for a command. Two goroutines work on it: the one that serves the request goes through the run's
// parts, and listen takes what the client sends.
type runStream struct {
	s   *Server
	c   *client
	in  *proto.Reader // of the client; listen's own
	out *proto.Writer // to the client

	cancel context.CancelCauseFunc      // ends the run, with the reason
	guest  atomic.Pointer[proto.Writer] // to the command, once there is one
}

// run serves a run stream: see api.Run. Whatever ends it, what RemoveOnDetach made is gone before the stream closes.
func (s *Server) run(w http.ResponseWriter, r *http.Request) error {
	if err := checkUpgrade(r); err != nil {
		return err
	}
	ctx, done, err := s.beginSession(r, "")
	if err != nil {
		return err
	}
	defer done()
	c, err := upgrade(w)
	if err != nil {
		return err
	}
	defer c.Close()
	one := &runStream{s: s, c: c, in: frames(c), out: proto.NewWriter(c)}
	ctx, one.cancel = context.WithCancelCause(ctx)
	defer one.cancel(nil)

	var req api.Run
	if _, err := readStart(c, one.in, &req); err != nil {
		c.refuse(s.streamProblem(ctx, err, ""))
		return nil
	}
	unwatch, err := c.onHangup(func() { one.cancel(errHangup) })
	if err != nil {
		c.refuse(s.streamProblem(ctx, err, ""))
		return nil
	}
	defer unwatch()
	// Once the run is called off, a client that takes nothing must not hold it up.
	stop := context.AfterFunc(ctx, func() { c.SetWriteDeadline(time.Now().Add(hangupGrace)) })
	defer stop()
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		one.listen()
	}()
	one.serve(ctx, req)
	c.CloseWrite() // the client sees the end and closes its side, which listen waits for
	c.SetReadDeadline(time.Now().Add(linger))
	<-listening
	return nil
}

// serve makes the VM, runs the command, tells how it ended, and takes away what was made for it.
func (one *runStream) serve(ctx context.Context, req api.Run) {
	v, err := one.bringUp(ctx, req)
	if err == nil {
		err = one.command(ctx, v, req)
	}
	if err != nil {
		one.conclude(proto.FrameError, one.s.streamProblem(ctx, err, v.ID))
	}
	if v.ID != "" && req.VM.Remove == model.RemoveOnDetach {
		one.remove(ctx, v)
	}
}

// bringUp creates and starts the VM. The VM is returned also with an error, when there is one by then.
//
// Its events go by a queue, because the making of an image may be shared with others, whom this client must not hold up.
func (one *runStream) bringUp(ctx context.Context, req api.Run) (model.VM, error) {
	events := newQueue()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		one.relay(events)
	}()
	defer func() { // before anything else is told
		events.end(func() {})
		<-sent
	}()
	return one.makeVM(ctx, req, func(e step.Event) { events.put(e, func() {}) })
}

// relay sends events to the client until there are no more.
func (one *runStream) relay(events *queue) {
	for range events.wake {
		queued, ended := events.take()
		for _, e := range queued {
			one.tell(proto.FrameEvent, e)
		}
		if ended {
			return
		}
	}
}

func (one *runStream) makeVM(ctx context.Context, req api.Run, report step.Reporter) (model.VM, error) {
	v, err := one.s.Manager.Launch(ctx, req.VM, naming(report), report)
	if err != nil {
		return v, orCause(ctx, err)
	}
	return v, nil
}

// naming reports what VM was made.
func naming(report step.Reporter) func(model.VM) {
	return func(v model.VM) {
		report.Report(step.Event{Step: api.EventVM, Phase: step.Done, Detail: v.Spec.Name})
	}
}

// command runs the command and forwards what it says. It returns nil when the command's end has been told.
func (one *runStream) command(ctx context.Context, v model.VM, req api.Run) error {
	_, agent, unuse, err := one.s.Manager.Use(ctx, v.ID)
	if err != nil {
		return orCause(ctx, err)
	}
	defer unuse()
	guest, err := one.begin(ctx, agent, v, req)
	if err != nil {
		return orCause(ctx, err)
	}
	defer guest.Close()
	timedOut := func() bool { return errors.Is(context.Cause(ctx), errTimedOut) }
	if req.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, req.Timeout, errTimedOut)
		defer cancel()
	}
	ended := make(chan struct{})
	defer close(ended)
	stop := context.AfterFunc(ctx, func() { hangUp(one.guest.Load(), guest, ended) })
	defer stop()
	told, err := one.forward(guest, timedOut)
	switch {
	case told:
		return nil
	case timedOut():
		one.conclude(proto.FrameExit, proto.Exit{Code: api.ExitTimedOut})
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fault.New(fault.Unavailable, "the VM went away before the command ended: %w", err).
			WithHint("`banger vm logs %s` may tell why.", v.Spec.Name)
	}
	return nil
}

// begin starts the command and lets the client's input through to it.
func (one *runStream) begin(ctx context.Context, agent vm.Agent, v model.VM, req api.Run) (net.Conn, error) {
	if req.Entrypoint {
		img, err := one.s.Images.Get(v.Spec.ImageID)
		if err != nil {
			return nil, err
		}
		req.Exec.Argv = argv(img.Config, req.Exec.Argv)
	}
	start, err := encodeStart(req.Exec)
	if err != nil {
		return nil, err
	}
	guest, err := openExec(ctx, agent, start)
	if err != nil {
		return nil, err
	}
	one.guest.Store(proto.NewWriter(guest))
	one.report(step.Event{Step: api.EventExec, Phase: step.Done, Time: time.Now()})
	return guest, nil
}

// forward passes the command's frames on until its end has been told.
func (one *runStream) forward(guest net.Conn, timedOut func() bool) (told bool, err error) {
	in := frames(guest)
	for {
		t, payload, err := in.ReadFrame()
		if err != nil {
			return false, err
		}
		last := t == proto.FrameExit || t == proto.FrameError
		if last && timedOut() {
			return false, nil
		}
		if err := one.out.WriteFrame(t, payload); err != nil {
			one.cancel(errHangup)
			return last, err
		}
		if last {
			return true, nil
		}
	}
}

// listen takes what the client sends, until it closes: before the command runs only a change of mind, then everything for the command.
func (one *runStream) listen() {
	for {
		t, payload, err := one.in.ReadFrame()
		switch guest := one.guest.Load(); {
		case err != nil || t == proto.FrameHangup:
			one.cancel(errHangup)
			if err != nil {
				return
			}
		case guest != nil:
			guest.WriteFrame(t, payload) // a guest that is gone is noticed by forward
		case t == proto.FrameSignal:
			one.cancel(errInterrupted)
		case t != proto.FrameResize: // a command that begins later is told its size by the request
			one.cancel(fault.New(fault.Invalid, "frame %d came before the command began", t))
		}
	}
}

// report tells the client of a step. What cannot be told is not worth ending the run for: onHangup notices a client that is gone.
func (one *runStream) report(e step.Event) { one.tell(proto.FrameEvent, e) }

func (one *runStream) tell(t proto.FrameType, v any) {
	_ = one.out.WriteJSON(t, v)
}

// conclude tells what remains to be told after the command.
func (one *runStream) conclude(t proto.FrameType, v any) {
	one.c.SetWriteDeadline(time.Now().Add(linger))
	one.tell(t, v)
}

// remove deletes the VM, whatever became of the run. A failure is told in an event after the command's end, and logged.
func (one *runStream) remove(ctx context.Context, v model.VM) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	err := one.s.Manager.Delete(ctx, v.ID, true, nil)
	if err == nil || fault.KindOf(err) == fault.NotFound {
		return
	}
	one.s.Log.ErrorContext(ctx, "deleting the VM of a run", "vm", v.ID, "name", v.Spec.Name, "error", err)
	one.report(step.Event{Step: api.EventDelete, Phase: step.Failed, Detail: v.Spec.Name, Error: err.Error(), Time: time.Now()})
}

// orCause prefers why ctx ended over what an operation made of that.
func orCause(ctx context.Context, err error) error {
	if ctx.Err() != nil && fault.KindOf(err) != fault.Internal {
		return context.Cause(ctx)
	}
	return err
}
