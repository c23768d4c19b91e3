package vm

import (
	"context"
	"fmt"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/oplock"
	"banger/internal/step"
	"banger/internal/vm/explain"
	"banger/internal/vm/record"
	"banger/internal/vm/room"
	"banger/internal/vmdir"
)

// perform is operateOn for a user's command. Before the command it completes what earlier
// operations could not: a deletion, recovery, or what repairs.repair does. If the VM is killed or
// deleted meanwhile, the error says so.
func perform[T any](
	ctx context.Context, c *core, ref string, k kind, report step.Reporter, do func(context.Context, *operation) (T, error),
) (result T, err error) {
	e, err := c.records.Find(ref)
	if err != nil {
		return result, err
	}
	c.retryDeletions(ctx, []*record.Entry{e})
	over := waiting(ctx, e, report)
	defer over()
	err = recoverShown(ctx, c, e)
	if err != nil && !k.mayEndUnknown() {
		return result, err
	}
	return operateOn(ctx, c, e, k, func(ctx context.Context, op *operation) (T, error) {
		over()
		if err := op.checkShown(k); err != nil {
			return result, err
		}
		if err := (repairs{op}).repair(ctx); err != nil {
			return result, err
		}
		if k.needsGuest() {
			if err := room.CheckNotHeld(op.record(), c.Room); err != nil {
				return result, err
			}
		}
		if k.needsDisks() {
			if err := op.checkDisks(ctx); err != nil {
				return result, fmt.Errorf("checking the disks of VM %s: %w", op.name(), err)
			}
		}
		result, err := do(ctx, op)
		err = explain.CalledOff(op.record(), context.Cause(oplock.Off(ctx)), err)
		if err != nil && k.needsGuest() {
			err = room.Explain(op.record(), c.Room, err)
		}
		return result, err
	})
}

// waiting reports that an operation on the VM keeps another one waiting.
func waiting(ctx context.Context, e *record.Entry, report step.Reporter) (over func()) {
	holder := e.Lock.Holder()
	if holder == "" {
		return func() {}
	}
	what := fmt.Sprintf("end of the %s of VM %s, which is under way", holder, e.Record().Spec.Name)
	return step.Waiting(step.WithWaits(ctx, report), what, 0)
}

// recoverShown recovers a VM that is only shown as broken, as the daemon's start would do it now:
// its directory may be back, or its machine may answer. The error is why that is not possible.
func recoverShown(ctx context.Context, c *core, e *record.Entry) error {
	if !e.IsHidden() {
		return nil
	}
	_, err := operateOn(ctx, c, e, opSettle, func(ctx context.Context, op *operation) (any, error) {
		if !e.IsHidden() { // another caller was first
			return nil, nil
		}
		e.ShowStored()
		defer e.Recovered()
		err := recovery{c, func() {}}.one(context.WithoutCancel(ctx), op)
		c.observe(ctx)
		v := e.Record()
		switch {
		case err != nil && e.IsHidden():
			return nil, fault.New(fault.KindOf(err), "VM %s: %w", v.Spec.Name, err).WithHint("%s", v.LastError.Hint)
		case err != nil: // what comes next repairs it, or reports why not
			c.logger(v).ErrorContext(ctx, "recovering", "error", err)
		}
		return nil, nil
	})
	return err
}

// recovered waits until a VM is recovered, and tries again if that was not possible.
func (c *core) recovered(ctx context.Context, e *record.Entry) error {
	if err := c.awaitRecovery(ctx, e); err != nil {
		return err
	}
	return recoverShown(ctx, c, e)
}

// checkShown refuses an operation on a VM that is only shown as broken, or whose memory is out of
// reach. It would take what it does not see for gone.
func (op *operation) checkShown(k kind) error {
	v, l := op.e.State()
	isMissing := l == nil && vmdir.IsMissing(op.dirs())
	switch {
	case isMissing && (op.e.IsHidden() || v.State == model.Suspended):
		return explain.Missing(v, op.dirs())
	case op.e.IsHidden() && !k.mayEndUnknown():
		return fault.New(fault.Unavailable, "VM %s: %s", v.Spec.Name, v.LastError.Msg).WithHint("%s", v.LastError.Hint)
	}
	return nil
}
