package step

import (
	"context"
	"strings"
	"sync"
	"time"
)

// waiting is the step of a wait that lasts.
const waiting = "waiting"

// noticeAfter is how long a wait lasts before it is reported.
const noticeAfter = 2 * time.Second

type reporterKey struct{}

// WithWaits returns a context for an operation whose long waits are reported: see Waiting.
func WithWaits(ctx context.Context, r Reporter) context.Context {
	if r == nil {
		return ctx
	}
	return context.WithValue(ctx, reporterKey{}, r)
}

// Waiting reports what the operation of ctx waits for, and until when; 0: the end is not
// known. It does so only if the wait lasts. The caller calls over when the wait is over.
func Waiting(ctx context.Context, what string, limit time.Duration) (over func()) {
	r, _ := ctx.Value(reporterKey{}).(Reporter)
	if r == nil {
		return func() {}
	}
	if limit > 0 {
		end := time.Now().Add(limit)
		if first, ok := ctx.Deadline(); ok && first.Before(end) {
			end = first
		}
		what += ", until about " + end.Format(time.TimeOnly)
	}
	var mu sync.Mutex
	ended, done := false, func(error) {}
	timer := time.AfterFunc(noticeAfter, func() {
		mu.Lock()
		defer mu.Unlock()
		if !ended {
			done = r.Track(waiting, what)
		}
	})
	return func() {
		timer.Stop()
		mu.Lock()
		defer mu.Unlock()
		if !ended {
			ended = true
			done(nil)
		}
	}
}

// IsWait reports whether an event is about a wait. Such an event comes when the wait has lasted.
func (e Event) IsWait() bool { return e.Step == waiting || strings.HasSuffix(e.Step, " "+waiting) }
