package server

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/guest/relay"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/step"
)

const (
	removeTimeout = 2 * time.Minute // for deleting a run's VM
	hangupGrace   = 2 * time.Second // for a guest to report a command's end
)

var (
	errHangup      = fault.New(fault.Canceled, "the run was given up")
	errInterrupted = fault.New(fault.Canceled, "interrupted before the command ran")
	errTimedOut    = errors.New("the command's time is over")
)

// runStream is one run: a VM that is made for a command. The request's goroutine goes through the
// run's parts. A second goroutine, listen, handles what the client sends.
type runStream struct {
	h   guestHandlers
	c   *client
	in  *proto.Reader // from the client; only listen reads it
	out *proto.Writer // to the client

	cancel  context.CancelCauseFunc       // ends the run, with the reason
	started atomic.Pointer[relay.Command] // the command; nil before it was started
}

// run serves a run stream: see api.Run. A VM with RemoveOnDetach is deleted before the stream
// closes, however the run ends.
func (h guestHandlers) run(w http.ResponseWriter, r *http.Request) error {
	if err := checkUpgrade(r); err != nil {
		return err
	}
	ctx, done, err := h.beginSession(r, "")
	if err != nil {
		return err
	}
	defer done()
	c, err := upgrade(w)
	if err != nil {
		return err
	}
	defer c.Close()
	one := &runStream{h: h, c: c, in: frames(c), out: proto.NewWriter(c)}
	ctx, one.cancel = context.WithCancelCause(ctx)
	defer one.cancel(nil)

	var req api.Run
	if err := readStart(c, one.in, &req); err != nil {
		c.refuse(h.streamProblem(ctx, err, ""))
		return nil
	}
	unwatch, err := c.onHangup(func() { one.cancel(errHangup) })
	if err != nil {
		c.refuse(h.streamProblem(ctx, err, ""))
		return nil
	}
	defer unwatch()
	// After the run is cancelled, a client that reads nothing must not delay it.
	stop := context.AfterFunc(ctx, func() { c.SetWriteDeadline(time.Now().Add(hangupGrace)) })
	defer stop()
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		one.listen()
	}()
	one.serve(ctx, req)
	c.CloseWrite() // the client sees the end and closes, which ends listen
	c.SetReadDeadline(time.Now().Add(linger))
	<-listening
	return nil
}

// serve makes the VM, runs the command, reports how it ended, and deletes the VM if asked.
func (one *runStream) serve(ctx context.Context, req api.Run) {
	v, err := one.bringUp(ctx, req)
	if err == nil {
		one.h.sessions.Belongs(ctx, v.ID)
		err = one.command(ctx, v, req)
	}
	if err != nil {
		one.conclude(proto.FrameError, one.h.streamProblem(ctx, err, v.ID))
	}
	if v.ID != "" && req.VM.Remove == model.RemoveOnDetach {
		one.remove(ctx, v)
	}
}

// bringUp creates and starts the VM. It returns the VM also with an error, if the VM exists by
// then. Events pass a queue, so that this client does not delay others who wait for the same image.
func (one *runStream) bringUp(ctx context.Context, req api.Run) (model.VM, error) {
	events := step.NewQueue()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		one.relay(events)
	}()
	defer func() { // before any other frame
		events.End(func() {})
		<-sent
	}()
	return one.makeVM(ctx, req, func(e step.Event) { events.Put(e, func() {}) })
}

// relay sends events to the client until there are no more.
func (one *runStream) relay(events *step.Queue) {
	for range events.Wake() {
		queued, ended := events.Take()
		for _, e := range queued {
			one.send(proto.FrameEvent, e)
		}
		if ended {
			return
		}
	}
}

func (one *runStream) makeVM(ctx context.Context, req api.Run, report step.Reporter) (model.VM, error) {
	v, err := one.h.vms.Launch(ctx, req.VM, naming(report), report)
	if err != nil {
		return v, orCause(ctx, err)
	}
	return v, nil
}

// naming returns a function that reports the new VM's name.
func naming(report step.Reporter) func(model.VM) {
	return func(v model.VM) {
		report.Report(step.Event{Step: api.EventVM, Phase: step.Done, Detail: v.Spec.Name})
	}
}

// command runs the command and passes its output on. It returns nil after the command's end was
// sent.
func (one *runStream) command(ctx context.Context, v model.VM, req api.Run) error {
	_, agent, unuse, err := one.h.agents.Use(ctx, v.ID)
	if err != nil {
		return orCause(ctx, err)
	}
	defer unuse()
	command, err := one.begin(ctx, agent, v, req)
	if err != nil {
		return one.h.whyLost(ctx, v, err)
	}
	defer command.Close()
	timedOut := func() bool { return errors.Is(context.Cause(ctx), errTimedOut) }
	if req.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, req.Timeout, errTimedOut)
		defer cancel()
	}
	ended := make(chan struct{})
	defer close(ended)
	stop := context.AfterFunc(ctx, func() { hangUp(command, ended) })
	defer stop()
	exit, err := command.Output(one.c)
	switch {
	case timedOut():
		one.conclude(proto.FrameExit, proto.Exit{Code: api.ExitTimedOut})
		return nil
	case err == nil:
		one.send(proto.FrameExit, exit)
		return nil
	case errors.Is(err, relay.ErrClient):
		one.cancel(errHangup)
		return errHangup
	}
	return one.h.whyLost(ctx, v, err)
}

// begin starts the command and connects the client's input to it.
func (one *runStream) begin(ctx context.Context, agent machine.Agent, v model.VM, req api.Run) (*relay.Command, error) {
	if req.Entrypoint {
		img, err := one.h.images.ByID(v.Spec.ImageID)
		if err != nil {
			return nil, err
		}
		req.Exec.Argv = argv(img.Config, req.Exec.Argv)
	}
	command, err := openExec(ctx, agent, req.Exec)
	if err != nil {
		return nil, err
	}
	one.started.Store(command)
	one.report(step.Event{Step: api.EventExec, Phase: step.Done, Time: time.Now()})
	return command, nil
}

// listen handles the client's frames until the client closes. Before the command runs, a client can
// only cancel. Afterwards all frames go to the command.
func (one *runStream) listen() {
	for {
		t, payload, err := one.in.ReadFrame()
		switch command := one.started.Load(); {
		case err != nil || t == proto.FrameHangup:
			one.cancel(errHangup)
			if err != nil {
				return
			}
		case command != nil:
			if err := command.WriteFrame(t, payload); err != nil {
				one.cancel(err)
			}
		case t == proto.FrameSignal:
			one.cancel(errInterrupted)
		case t != proto.FrameResize: // the request holds the size for a later command
			one.cancel(fault.New(fault.Invalid, "frame %d came before the command began", t))
		}
	}
}

// report sends a step to the client. A failure does not end the run: onHangup notices a client that
// is gone.
func (one *runStream) report(e step.Event) { one.send(proto.FrameEvent, e) }

func (one *runStream) send(t proto.FrameType, v any) {
	_ = one.out.WriteJSON(t, v)
}

// conclude sends the last frame of the run.
func (one *runStream) conclude(t proto.FrameType, v any) {
	one.c.SetWriteDeadline(time.Now().Add(linger))
	one.send(t, v)
}

// remove deletes the VM, however the run ended. It logs a failure and sends an event after the
// command's end.
func (one *runStream) remove(ctx context.Context, v model.VM) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	err := one.h.vms.Delete(ctx, v.ID, true, nil)
	if err == nil || fault.KindOf(err) == fault.NotFound {
		return
	}
	one.h.log.ErrorContext(ctx, "deleting the VM of a run", "vm", v.ID, "name", v.Spec.Name, "error", err)
	one.report(step.Event{Step: api.EventDelete, Phase: step.Failed, Detail: v.Spec.Name, Error: err.Error(), Time: time.Now()})
}

// orCause returns the cause of ctx's end rather than the error that the end led to.
func orCause(ctx context.Context, err error) error {
	if ctx.Err() != nil && fault.KindOf(err) != fault.Internal {
		return context.Cause(ctx)
	}
	return err
}
