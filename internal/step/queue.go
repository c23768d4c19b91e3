package step

import "sync"

// maxQueued is the number of events that a slow client may be behind.
const maxQueued = 256

// Queue holds events for a client. With it, a slow client never delays the operation, which other
// clients may be waiting for, too.
type Queue struct {
	mu     sync.Mutex
	events []Event
	ended  bool
	wake   chan struct{} // holds one token if there is something to do
}

// NewQueue returns an empty queue.
func NewQueue() *Queue { return &Queue{wake: make(chan struct{}, 1)} }

// Put adds an event and calls also under the lock, unless the queue has ended. A full queue drops
// progress, because later progress replaces it.
func (q *Queue) Put(event Event, also func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		return
	}
	if len(q.events) >= maxQueued {
		if event.Phase == Progress {
			return
		}
		q.events = dropProgress(q.events)
	}
	q.events = append(q.events, event)
	also()
	q.poke()
}

// End closes the queue and calls also under the lock.
func (q *Queue) End(also func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	also()
	q.poke()
}

// Take empties the queue and reports whether it has ended.
func (q *Queue) Take() (events []Event, ended bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	events, q.events = q.events, nil
	return events, q.ended
}

// Wake returns a channel that has an element if there is something to do.
func (q *Queue) Wake() <-chan struct{} { return q.wake }

func (q *Queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func dropProgress(queue []Event) []Event {
	kept := queue[:0]
	for _, event := range queue {
		if event.Phase != Progress {
			kept = append(kept, event)
		}
	}
	if len(kept) >= maxQueued { // the client reads nothing
		kept = kept[1:]
	}
	return kept
}
