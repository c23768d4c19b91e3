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
// known. It does so only if the wait lasts. If the wait outlasts that end, which may follow the
// host's speed, it reports that instead. The caller calls over when the wait is over.
func Waiting(ctx context.Context, what string, limit time.Duration) (over func()) {
	r, _ := ctx.Value(reporterKey{}).(Reporter)
	if r == nil {
		return func() {}
	}
	var mu sync.Mutex
	ended, done := false, func(error) {}
	noteAfter := func(after time.Duration, text string) *time.Timer {
		return time.AfterFunc(after, func() {
			mu.Lock()
			defer mu.Unlock()
			if !ended {
				done(nil)
				done = r.Track(waiting, text)
			}
		})
	}
	text, late := what, (*time.Timer)(nil)
	if limit > 0 {
		end := time.Now().Add(limit)
		if first, ok := ctx.Deadline(); ok && first.Before(end) {
			end = first
		}
		text += ", until about " + end.Format(time.TimeOnly)
		late = noteAfter(max(time.Until(end), 0)+2*noticeAfter, what+", longer than expected")
	}
	timer := noteAfter(noticeAfter, text)
	return func() {
		timer.Stop()
		if late != nil {
			late.Stop()
		}
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
