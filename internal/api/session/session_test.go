package session

import (
	"context"
	"errors"
	"testing"
)

// TestExpectIsUndone claims that an operation that failed explains no later end of a session.
func TestExpectIsUndone(t *testing.T) {
	s := NewSet()
	ctx, done, err := s.Begin(context.Background(), "vm")
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	failed := errors.New("failed")
	over := s.Expect("vm", "stopped")
	if got := s.Expected(ctx); got != "stopped" {
		t.Errorf("expected is %q, want stopped", got)
	}
	over(&failed)
	if got := s.Expected(ctx); got != "" {
		t.Errorf("after a stop that failed, expected is %q", got)
	}
	over = s.Expect("vm", "stopped")
	var none error
	s.Expect("vm", "killed")(&none)
	over(&failed)
	if got := s.Expected(ctx); got != "killed" {
		t.Errorf("after a stop that failed because of a kill, expected is %q", got)
	}
}
