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
