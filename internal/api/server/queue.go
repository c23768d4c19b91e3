package server

import (
	"sync"

	"banger/internal/step"
)

// maxQueued is how many events a slow client may be behind.
const maxQueued = 256

// queue is events on their way to a client, so that a slow or suspended one never holds up the operation that it watches, which others may
// be waiting for too.
type queue struct {
	mu     sync.Mutex
	events []step.Event
	ended  bool
	wake   chan struct{} // holds one token when there is something to do
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

// put adds an event and calls also under the lock, unless the queue has ended. When it is full, what gives way is progress, which the next
// progress makes good.
func (q *queue) put(event step.Event, also func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		return
	}
	if len(q.events) >= maxQueued {
		if event.Phase == step.Progress {
			return
		}
		q.events = dropProgress(q.events)
	}
	q.events = append(q.events, event)
	also()
	q.poke()
}

// end lets nothing more in, and calls also under the lock.
func (q *queue) end(also func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	also()
	q.poke()
}

// take empties the queue, and tells whether anything more can come.
func (q *queue) take() (events []step.Event, ended bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	events, q.events = q.events, nil
	return events, q.ended
}

func (q *queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
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
