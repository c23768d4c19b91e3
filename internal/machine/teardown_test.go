package machine

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"banger/internal/pace"
	"banger/internal/paths"
)

// stuck is a capability whose cleanup ends only with its context.
type stuck struct{}

func (stuck) Name() string { return "stuck" }

func (stuck) Cleanup(ctx context.Context, _ CleanupRequest) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// TestCleanupsEnd checks that a cleanup that hangs ends, and keeps nothing from the others.
func TestCleanupsEnd(t *testing.T) {
	layout := paths.Layout{State: t.TempDir(), Runtime: t.TempDir()}
	synctest.Test(t, func(t *testing.T) {
		h := &Host{Layout: layout, Capabilities: []Capability{stuck{}}, Log: slog.New(slog.DiscardHandler)}
		began := time.Now()
		err := h.Release(t.Context(), Remains{Subject: Subject{ID: "0123456789abcdef"}, Prepared: []string{"stuck"}})
		if !pace.Passed(err) {
			t.Errorf("the cleanup ended with %v", err)
		}
		if took := time.Since(began); took < cleanTimeout || took > pace.Most*cleanTimeout {
			t.Errorf("the cleanup took %v", took)
		}
	})
}
