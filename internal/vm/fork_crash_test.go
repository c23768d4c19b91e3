package vm

import (
	"context"
	"testing"

	"banger/internal/model"
)

// TestKilledWhileForking kills the daemon at each moment of a fork: the parent goes on, and of the child there is nothing, or a VM that says what became of
// it and has all that its parent had on its disk.
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
			d.goesOn(t, v)
			if child, err := d.Get("x"); err == nil { // nobody was told of it, and its memory is gone
				t.Errorf("there is a child: %+v", child)
			}
			h.wantFiles(t, before)
			h.wantMachines(t, 1)
			d.isFork(t, d.fork(t, v, model.Fork{Name: "x"})[0], v, "work of a")
		})
	}
}

// TestRecoveryCannotLetTheParentGoOn pauses it, and says why.
func TestRecoveryCannotLetTheParentGoOn(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	dead := d
	h.failing("thaw", errBoom)
	d = d.killedIn("still", func(ctx context.Context) { dead.Fork(ctx, "a", model.Fork{}, nil) })
	d.cannotGoOn(t, v)
}
