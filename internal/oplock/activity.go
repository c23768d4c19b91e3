package oplock

import (
	"context"
	"sync"
	"time"
)

// Activity counts the operations under way, so that background work waits for a pause. The zero
// value works.
type Activity struct {
	mu   sync.Mutex
	n    int
	last time.Time // when the last one ended
}

// Begin notes an operation until end is called.
func (a *Activity) Begin() (end func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n++
	return sync.OnceFunc(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.n--
		a.last = time.Now()
	})
}

// Quiet waits until there has been no operation for d, or ctx ends.
func (a *Activity) Quiet(ctx context.Context, d time.Duration) error {
	for {
		wait := a.untilQuiet(d)
		if wait <= 0 {
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

func (a *Activity) untilQuiet(d time.Duration) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.n > 0 {
		return d
	}
	return d - time.Since(a.last)
}
