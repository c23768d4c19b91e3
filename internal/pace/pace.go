// Package pace makes deadlines follow the speed of the host.
//
// A deadline is written for an ordinary host: its nominal time. If the nominal time passes, and
// only then, the host is measured. On a host that is slower by some factor at that moment, the
// deadline is later by the same factor. So a wait that succeeds costs nothing, and on a slow or
// busy host nothing is given up too early. No deadline is before its nominal time, or after Most
// times that.
package pace

import (
	"context"
	"errors"
	"sync"
	"time"

	"banger/internal/fault"
	"banger/internal/step"
)

// Most bounds the factor.
const Most = 20

// Context is context.WithTimeout with a deadline that follows the host's speed. what completes the
// sentence "no ... within 30s" of the cause, which is fault.Unavailable and counts as a
// context.DeadlineExceeded. If the wait lasts, it is reported: see step.Waiting.
func Context(parent context.Context, nominal time.Duration, what string) (context.Context, context.CancelFunc) {
	ctx, cancel := within(parent, nominal, Slowness, func(waited time.Duration) error {
		return fault.New(fault.Unavailable, "no %s within %v", what, waited)
	})
	over := step.Waiting(parent, what, nominal)
	return ctx, func() { over(); cancel() }
}

// Cause is Context for a caller that words the cause, which should be of kind fault.Unavailable.
func Cause(parent context.Context, nominal time.Duration, cause func(waited time.Duration) error) (context.Context, context.CancelFunc) {
	return within(parent, nominal, Slowness, cause)
}

// Pass returns after a nominal time, or when ctx ends.
func Pass(ctx context.Context, nominal time.Duration) {
	ctx, cancel := Cause(ctx, nominal, func(time.Duration) error { return context.DeadlineExceeded })
	defer cancel()
	<-ctx.Done()
}

// Every calls do every so often until ctx ends. This does not follow the host's speed.
func Every(ctx context.Context, every time.Duration, do func(ctx context.Context, now time.Time)) {
	look := time.NewTicker(every)
	defer look.Stop()
	for {
		select {
		case now := <-look.C:
			do(ctx, now)
		case <-ctx.Done():
			return
		}
	}
}

// passed makes any error count as a context.DeadlineExceeded.
type passed struct{ error }

func (p passed) Unwrap() error      { return p.error }
func (passed) Is(target error) bool { return target == context.DeadlineExceeded }

// Passed reports whether an error came from a deadline, of this package or another one.
func Passed(err error) bool { return errors.Is(err, context.DeadlineExceeded) }

func within(
	parent context.Context, nominal time.Duration, slowness func() float64, cause func(time.Duration) error,
) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	began := time.Now()
	var mu sync.Mutex // the timer may fire before it is assigned
	var timer *time.Timer
	look := func() {
		mu.Lock()
		defer mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		limit := time.Duration(float64(nominal) * min(max(slowness(), 1), Most))
		if left := limit - time.Since(began); left > 0 {
			timer.Reset(left)
			return
		}
		cancel(passed{cause(time.Since(began).Round(nominal / 10))})
	}
	mu.Lock()
	timer = time.AfterFunc(nominal, look)
	mu.Unlock()
	return ctx, func() { timer.Stop(); cancel(nil) }
}
