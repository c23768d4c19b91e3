package server

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"banger/internal/api"
	"banger/internal/step"
)

const heartbeat = 15 * time.Second // after this silence, to notice a dead peer

// operation does the work of a request and returns what is sent as JSON. The reporter is nil if the
// client wants no steps.
type operation func(w http.ResponseWriter, r *http.Request, report step.Reporter) (any, error)

// steps makes a handler of a long operation. It answers with server-sent events if the request
// accepts them, otherwise with JSON at the end.
func (c *core) steps(do operation) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if !strings.Contains(r.Header.Get("Accept"), api.MediaSSE) {
			out, err := do(w, r, nil)
			if err != nil {
				return err
			}
			return writeResult(w, out)
		}
		events := newEvents(w)
		defer events.stop() // also if do panics
		out, err := do(w, r, events.report)
		name := api.EventResult
		if err != nil {
			name, out = api.EventProblem, c.problem(r.Context(), err, vmRef(r))
		}
		return events.finish(name, out)
	}
}

// events sends server-sent events from a queue, so that a slow client never delays the operation.
// Sending begins with the first event: an operation that fails at once answers with a plain problem
// and its status.
type events struct {
	w  http.ResponseWriter
	rc *http.ResponseController

	queue  *step.Queue
	joined chan struct{} // closed when the sender has ended
	begun  bool          // guarded by the queue's lock
	err    error         // of the sender; read after joined
}

func newEvents(w http.ResponseWriter) *events {
	return &events{w: w, rc: http.NewResponseController(w), queue: step.NewQueue(), joined: make(chan struct{})}
}

// report queues an event.
func (e *events) report(event step.Event) {
	first := func() {
		if !e.begun {
			e.begun = true
			go e.send()
		}
	}
	e.queue.Put(event, first)
}

// stop ends the sender and waits for it. Later reports are dropped.
func (e *events) stop() {
	var begun bool
	e.queue.End(func() { begun = e.begun })
	if begun {
		<-e.joined
	}
}

// finish sends the queued events and then the last one.
func (e *events) finish(name string, v any) error {
	e.stop()
	switch p, failed := v.(*api.Problem); {
	case e.err != nil:
		return e.err
	case !e.begun && failed:
		return writeJSON(e.w, p.Status, "application/problem+json", p)
	case !e.begun:
		e.head()
	}
	return e.write(func() error { return api.WriteEvent(e.w, name, v) })
}

func (e *events) head() {
	e.w.Header().Set("Content-Type", api.MediaSSE)
	e.w.Header().Set("Cache-Control", "no-store")
	e.w.WriteHeader(http.StatusOK)
}

func (e *events) send() {
	defer close(e.joined)
	e.head()
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		select {
		case <-e.queue.Wake():
		case <-beat.C:
			e.err = e.write(func() error { _, err := e.w.Write([]byte(":\n\n")); return err })
		}
		ended := e.sendQueued()
		if ended || e.err != nil {
			return
		}
		beat.Reset(heartbeat)
	}
}

// sendQueued empties the queue and reports whether it has ended.
func (e *events) sendQueued() (ended bool) {
	for e.err == nil {
		var queue []step.Event
		queue, ended = e.queue.Take()
		if len(queue) == 0 {
			return ended
		}
		e.err = e.write(func() error {
			var errs []error
			for _, event := range queue {
				errs = append(errs, api.WriteEvent(e.w, api.EventStep, event))
			}
			return errors.Join(errs...)
		})
	}
	return ended
}

func (e *events) write(f func() error) error {
	_ = e.rc.SetWriteDeadline(time.Now().Add(replyTimeout))
	err := f()
	if err == nil {
		err = e.rc.Flush()
	}
	if err != nil {
		return fmt.Errorf("sending events: %w", err)
	}
	_ = e.rc.SetWriteDeadline(time.Time{})
	return nil
}
