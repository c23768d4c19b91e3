package vm

import (
	"context"
	"errors"
	"syscall"

	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/vm/explain"
)

// Delete removes a VM and everything that is its own. One that runs, or is coming up, is deleted
// only by force. Force ends the machine and calls off operations that are under way or wait. Once
// begun, a delete continues although ctx ends.
func (m *Manager) Delete(ctx context.Context, ref string, force bool, report step.Reporter) error {
	e, err := m.records.Find(ref)
	if err != nil {
		return err
	}
	if !force {
		_ = recoverShown(ctx, m.core, e) // whether that is possible or not, what is stored decides
	}
	v := e.Stored()
	isComing := v.State == model.Starting || v.State == model.Pausing && e.IsHidden()
	if !force && (isComing || explain.HasMemory(v)) {
		return explain.StillRuns(v)
	}
	turn := e.Lock.Enqueue(ctx, string(opDelete))
	if force {
		_, _, _ = interrupt(e, errDeleted, syscall.SIGKILL) // an error comes again in the deletion
	}
	_, err = during(m.core, e, turn, opDelete, func(ctx context.Context, op *operation) (any, error) {
		err := repairs{op}.settleUnrecorded(ctx, force)
		if err != nil && (!force || m.life.Err() != nil) {
			return nil, err
		}
		if err != nil && op.settle(ctx, nil) != nil {
			// On a full disk it cannot be recorded that the VM has come to rest. What is left goes
			// with the VM.
			m.logger(op.record()).WarnContext(ctx, "deleting a VM that could not be settled", "error", err)
		}
		if !force {
			if err := (repairs{op}).checkDeletion(ctx); err != nil {
				return nil, err
			}
		}
		end := report.Track("delete", op.name())
		err = op.delete(ctx)
		end(err)
		m.observe(ctx)
		return nil, err
	})
	if force && fault.KindOf(err) == fault.NotFound { // whom it has interrupted has deleted the VM
		return nil
	}
	return err
}

// checkDeletion refuses to delete a VM that has more than its disks. It may have been started
// meanwhile, or its memory may have been put back beside its disks.
func (op repairs) checkDeletion(ctx context.Context) error {
	if v := op.e.Stored(); !v.State.Between() && !explain.HasMemory(v) {
		if _, err := op.asleep(ctx); err != nil {
			return err
		}
	}
	if v := op.e.Stored(); explain.HasMemory(v) {
		return explain.StillRuns(v)
	}
	return nil
}

// errDeleted is why a forced delete calls off other operations.
var errDeleted = fault.New(fault.Canceled, "called off: the VM is being deleted")

// Prune deletes all VMs that are stopped or failed to start.
func (m *Manager) Prune(ctx context.Context) (model.Pruned, error) {
	pruned := model.Pruned{Removed: []string{}}
	var errs []error
	for _, v := range m.List() {
		if v.State != model.Stopped && v.State != model.Failed {
			continue
		}
		freed := machine.DiskUse(m.dirsOf(v))
		switch err := m.Delete(ctx, v.ID, false, nil); fault.KindOf(err) {
		case "":
			pruned.Removed = append(pruned.Removed, v.Spec.Name)
			pruned.Freed += freed
		case fault.NotFound, fault.WrongState: // deleted or started meanwhile
		default:
			errs = append(errs, err)
		}
	}
	return pruned, errors.Join(errs...)
}
