package server

import (
	"sync"

	"banger/internal/step"
)

// maxQueued is the number of events that a slow client may be behind.
const maxQueued = 256

// queue holds events for a client. With it, a slow client never delays the operation, which other
// clients may be waiting for, too.
type queue struct {
	mu     sync.Mutex
	events []step.Event
	ended  bool
	wake   chan struct{} // holds one token if there is something to do
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

// put adds an event and calls also under the lock, unless the queue has ended. A full queue drops
// progress, because later progress replaces it.
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

// end closes the queue and calls also under the lock.
func (q *queue) end(also func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	also()
	q.poke()
}

// take empties the queue and reports whether it has ended.
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
	if len(kept) >= maxQueued { // the client reads nothing
		kept = kept[1:]
	}
	return kept
}
