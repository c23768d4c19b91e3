package server

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"banger/internal/api"
	"banger/internal/step"
)

const (
	heartbeat = 15 * time.Second // of silence; so that both ends notice when the other is gone
	maxQueued = 256              // events that a slow client may be behind
)

// steps makes a handler of a long operation: server-sent events for those who accept them, else JSON at the end.
func (s *Server) steps(f func(w http.ResponseWriter, r *http.Request, report step.Reporter) (any, error)) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if !strings.Contains(r.Header.Get("Accept"), api.MediaSSE) {
			out, err := f(w, r, nil)
			if err != nil {
				return err
			}
			return writeResult(w, out)
		}
		events := newEvents(w)
		defer events.stop() // also when f panics
		out, err := f(w, r, events.report)
		name := api.EventResult
		if err != nil {
			name, out = api.EventProblem, s.problem(err, r.PathValue("ref"))
		}
		return events.finish(name, out)
	}
}

// events sends server-sent events from a queue, so that a slow client never holds up the operation that it watches. Sending begins with
// the first event: an operation that fails at once is a plain problem with its status.
type events struct {
	w  http.ResponseWriter
	rc *http.ResponseController

	mu     sync.Mutex
	queue  []step.Event
	ended  bool
	wake   chan struct{} // holds one token when there is something to do
	joined chan struct{} // closed when the sender has ended
	begun  bool
	err    error // of the sender; read after joined
}

func newEvents(w http.ResponseWriter) *events {
	return &events{w: w, rc: http.NewResponseController(w), wake: make(chan struct{}, 1), joined: make(chan struct{})}
}

// report queues an event. When the queue is full, what gives way is progress, which the next progress makes good.
func (e *events) report(event step.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return
	}
	if len(e.queue) >= maxQueued {
		if event.Phase == step.Progress {
			return
		}
		e.queue = dropProgress(e.queue)
	}
	e.queue = append(e.queue, event)
	if !e.begun {
		e.begun = true
		go e.send()
	}
	e.poke()
}

func dropProgress(queue []step.Event) []step.Event {
	kept := queue[:0]
	for _, event := range queue {
		if event.Phase != step.Progress {
			kept = append(kept, event)
		}
	}
	if len(kept) >= maxQueued { // a client that does not read at all
		kept = kept[1:]
	}
	return kept
}

func (e *events) poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// stop ends the sender and waits for it. Reports after it are dropped.
func (e *events) stop() {
	e.mu.Lock()
	e.ended = true
	begun := e.begun
	e.poke()
	e.mu.Unlock()
	if begun {
		<-e.joined
	}
}

// finish sends what is queued and then the last event.
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
		case <-e.wake:
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

// sendQueued empties the queue and tells whether it was the last time.
func (e *events) sendQueued() (ended bool) {
	for e.err == nil {
		e.mu.Lock()
		queue := e.queue
		e.queue = nil
		ended = e.ended
		e.mu.Unlock()
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
