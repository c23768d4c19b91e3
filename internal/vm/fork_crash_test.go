package vm

import (
	"context"
	"testing"

	"banger/internal/model"
)

// TestKilledWhileForking kills the daemon at each moment of a fork. The parent continues, and
// nothing is left of the child.
func TestKilledWhileForking(t *testing.T) {
	t.Parallel()
	for _, hook := range append([]string{"freeze", "froze", "save", "still", "thaw"}, childHooks...) {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			before := h.files()
			dead := d
			d = d.killedIn(hook, func(ctx context.Context) { dead.Fork(ctx, "a", model.Fork{Name: "x"}, nil) })
			d.wantContinues(t, v)
			if child, err := d.Get("x"); err == nil { // no client knows it, and its memory is lost
				t.Errorf("a killed fork left the child %+v", child)
			}
			h.wantFiles(t, before)
			h.wantMachines(t, 1)
			d.wantFork(t, d.fork(t, v, model.Fork{Name: "x"})[0], v, "work of a")
		})
	}
}

// TestRecoveryPausesAParentThatCannotBeThawed kills the daemon in a fork, and makes the thaw of
// the parent fail afterwards.
func TestRecoveryPausesAParentThatCannotBeThawed(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	dead := d
	h.failing("thaw", errBoom)
	d = d.killedIn("still", func(ctx context.Context) { dead.Fork(ctx, "a", model.Fork{}, nil) })
	d.wantPausedUntilThawed(t, v)
}
