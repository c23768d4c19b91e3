package oplock

import (
	"context"
	"time"

	"banger/internal/pace"
)

type offKey struct{}

// Off returns the context that ends when the operation of ctx is called off. Without an operation,
// it never ends.
func Off(ctx context.Context) context.Context {
	if off, ok := ctx.Value(offKey{}).(context.Context); ok {
		return off
	}
	return context.Background()
}

type endingKey struct{}

// ending is the turn of an operation, and what ends its waits for guests.
type ending struct {
	turn  *Turn
	waits context.Context
}

// WaitUnless is Wait. When waits ends, the operation is called off if it waits for a guest, and if
// it is in the line and inLine is set. Otherwise it continues.
func (t *Turn) WaitUnless(waits context.Context, inLine bool) error {
	t.ctx = context.WithValue(t.ctx, endingKey{}, ending{t, waits})
	if !inLine {
		return t.Wait()
	}
	if waits.Err() != nil {
		t.CallOff(context.Cause(waits))
	}
	defer context.AfterFunc(waits, func() { t.CallOff(context.Cause(waits)) })()
	return t.Wait()
}

// lateGrace is the nominal time that a guest has to answer that is called after waits have ended.
const lateGrace = 500 * time.Millisecond

// AwaitGuest notes that the operation of ctx waits for a guest until over is called: see
// WaitUnless.
func AwaitGuest(ctx context.Context) (over func()) {
	e, ok := ctx.Value(endingKey{}).(ending)
	if !ok {
		return func() {}
	}
	waiting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	late := e.waits.Err() != nil
	stop := context.AfterFunc(e.waits, func() {
		if late {
			pace.Pass(waiting, lateGrace)
		}
		if waiting.Err() == nil {
			e.turn.CallOff(context.Cause(e.waits))
		}
	})
	return func() { stop(); cancel() }
}

// Outlive returns a context for what an operation continues without its caller. It has the values
// of ctx, and ends some nominal time (see package pace) after the operation was called off.
func Outlive(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	off := Off(ctx)
	out, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	if off.Err() != nil && grace <= 0 { // now, and not soon
		cancel(context.Cause(off))
	}
	stop := context.AfterFunc(off, func() {
		if grace > 0 {
			pace.Pass(out, grace)
		}
		cancel(context.Cause(off))
	})
	return out, func() { stop(); cancel(nil) }
}
