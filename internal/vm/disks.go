package vm

import (
	"context"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/oplock"
	"banger/internal/vm/explain"
)

// checkDisks fails, and shows why, if the VMM has other files open than the VM's disks, or if their
// file system does not answer.
func (op *operation) checkDisks(ctx context.Context) error {
	l := op.e.Machine()
	if l == nil {
		return nil
	}
	defer oplock.AwaitGuest(ctx)() // it may take as long
	err := op.host.CheckOpen(ctx, op.machineSubject(), l)
	var why, lost *model.Failure
	if err != nil {
		why = op.failure(op.record(), err)
	}
	if fault.KindOf(err) == fault.Damaged {
		lost = explain.WithoutDisks(op.dirs())
	}
	if fault.KindOf(err) != fault.Canceled && op.e.SetReplaced(l, why, lost) {
		op.logger(op.record()).WarnContext(ctx, "the disks of a VM that runs", "error", err)
	}
	return err
}

// lookAtDisks begins to look which VMs have lost their disks. It is no operation: it waits for
// none. Each VM is looked at beside the others: a file system that does not answer delays nobody.
func (c *core) lookAtDisks(ctx context.Context, _ time.Time) {
	for _, e := range c.records.Entries() {
		if l := e.Machine(); l != nil && !l.IsLookedAt() {
			c.wg.Go(func() { _ = (&operation{core: c, e: e}).checkDisks(ctx) })
		}
	}
}
