package vm

import (
	"context"
	"fmt"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// Start brings a VM up and returns when its guest has its identity. A running VM is success, which
// the report says. If ctx ends before the VM runs, what was made is undone.
func (m *Manager) Start(ctx context.Context, ref string, how model.Start, report step.Reporter) (model.VM, error) {
	return perform(ctx, m.core, ref, opStart, report, func(ctx context.Context, op *operation) (model.VM, error) {
		if op.record().State == model.Broken {
			if err := (repairs{op}).endBroken(ctx); err != nil {
				return op.record(), fmt.Errorf("removing what an earlier run left: %w", err)
			}
		}
		switch v := op.record(); v.State {
		case model.Running:
			report.Report(step.Event{Step: "start", Phase: step.Skipped, Detail: "already running"})
			return v, nil
		case model.Stopped, model.Failed:
		case model.Paused, model.Suspended:
			err := op.resume(ctx, report)
			return op.record(), err
		default:
			return v, fault.New(fault.WrongState, "VM %s is %s", v.Spec.Name, v.State.Phrase())
		}
		return op.bringUp(ctx, how, report)
	})
}
