package oplock

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestActivity(t *testing.T) {
	t.Parallel()
	var a Activity
	if err := a.Quiet(t.Context(), time.Hour); err != nil { // there was no operation yet
		t.Error(err)
	}
	end := a.Begin()
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 1)
	go func() { errs <- a.Quiet(ctx, time.Millisecond) }()
	select {
	case err := <-errs:
		t.Errorf("it was quiet during an operation: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("the cancelled wait returned %v", err)
	}
	end()
	end() // counts once
	other := a.Begin()
	if a.untilQuiet(time.Nanosecond) <= 0 {
		t.Error("the end of one operation was taken for that of another")
	}
	other()
	if a.untilQuiet(time.Hour) <= 0 {
		t.Error("an hour of quiet has passed at once")
	}
	if err := a.Quiet(t.Context(), time.Millisecond); err != nil {
		t.Error(err)
	}
}
