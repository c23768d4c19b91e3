package vm

import (
	"cmp"
	"context"

	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/vm/explain"
	"banger/internal/vm/record"
	"banger/internal/vmm"
)

// watch waits in the background for the VM's machine to end, and then settles the VM. It ends at
// Close.
func (c *core) watch(e *record.Entry) {
	l := e.Machine()
	c.wg.Go(func() {
		exit, err := l.Instance.Wait(c.life)
		if err != nil {
			return // Close, or an operation has released this machine and settles the VM itself
		}
		c.ended(e, l, exit)
	})
}

// ended settles a VM whose machine has ended. Of several callers for one machine the first does it.
func (c *core) ended(e *record.Entry, l *machine.Machine, exit vmm.Exit) {
	// It fails if the VM is deleted, or at Close: then the next start-up settles the VM.
	_, _ = operateOn(c.life, c, e, opEnded, func(ctx context.Context, op *operation) (any, error) {
		if e.Machine() == l {
			op.settleEnded(ctx, exit)
		}
		return nil, nil
	})
}

func (op *operation) settleEnded(ctx context.Context, exit vmm.Exit) {
	v := op.record()
	if v.State == model.Suspended { // the machine did not end when its memory had been kept
		if err := op.endSuspended(context.WithoutCancel(ctx)); err != nil {
			op.logger(v).ErrorContext(ctx, "removing what a suspended VM left", "error", err)
		}
		return
	}
	why := cmp.Or(explain.Exit(op.Layout, v, exit), op.e.Lost())
	settle := (repairs{op}).rest
	if l := op.e.Machine(); l != nil && l.Killed() { // which gives memory up, too
		settle = op.settle
	}
	if err := settle(ctx, why); err != nil {
		op.logger(v).ErrorContext(ctx, "settling a VM whose machine ended", "error", err)
		return
	}
	op.logger(v).InfoContext(ctx, "machine ended", "reason", exit.Reason, "detail", exit.Detail)
	op.removeIfAsked(ctx)
	op.observe(ctx)
}
