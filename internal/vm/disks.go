package vm

import (
	"context"
	"time"

	"banger/internal/model"
)

// checkDisks fails, and shows why, if the VMM has other files open than the VM's disks.
func (op *operation) checkDisks(ctx context.Context) error {
	l := op.e.Machine()
	if l == nil {
		return nil
	}
	err := op.host.CheckOpen(ctx, op.machineSubject(), l)
	var why *model.Failure
	if err != nil {
		why = op.failure(op.record(), err)
	}
	if op.e.SetReplaced(l, why) {
		op.logger(op.record()).WarnContext(ctx, "the disks of a VM that runs", "error", err)
	}
	return err
}

// lookAtDisks shows which VMs have lost their disks. It is no operation: it waits for none.
func (c *core) lookAtDisks(ctx context.Context, _ time.Time) {
	for _, e := range c.records.Entries() {
		_ = (&operation{core: c, e: e}).checkDisks(ctx)
	}
}
