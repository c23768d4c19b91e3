package vm

import (
	"context"
	"errors"

	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/vm/explain"
)

// Delete removes a VM and everything that is its own. One that runs, or is coming up, is deleted
// only by force. Force calls off starts and restarts that are under way or wait. Once begun, a
// delete continues although ctx ends.
func (m *Manager) Delete(ctx context.Context, ref string, force bool, report step.Reporter) error {
	e, err := m.records.find(ref)
	if err != nil {
		return err
	}
	if v := e.record(); !force && (v.State == model.Starting || explain.HasMemory(v)) {
		return explain.StillRuns(v)
	}
	if force {
		e.lock.CallOff(func(operation string) bool { return kind(operation).calledOffByDelete() })
	}
	_, err = operateOn(ctx, m.core, e, opDelete, func(ctx context.Context, op *operation) (any, error) {
		if err := (repairs{op}).settleUnrecorded(ctx); err != nil {
			if !force || m.life.Err() != nil {
				return nil, err
			}
			// On a full disk it cannot be recorded that the VM has come to rest. What is left goes
			// with the VM.
			m.logger(op.record()).WarnContext(ctx, "deleting a VM that could not be settled", "error", err)
		}
		if v := op.record(); !force && explain.HasMemory(v) {
			return nil, explain.StillRuns(v) // started while we waited
		}
		end := report.Track("delete", op.name())
		err := op.delete(ctx)
		end(err)
		m.observe(ctx)
		return nil, err
	})
	return err
}

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
