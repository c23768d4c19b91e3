package uevent

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestWaitEndsWithItsContext(t *testing.T) {
	events, err := Open()
	if err != nil {
		t.Skipf("needs uevents: %v", err)
	}
	defer events.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	for ctx.Err() == nil { // other devices may send events meanwhile
		if err := events.Wait(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("waiting ended with %v, want the end of the context", err)
		}
	}
}
