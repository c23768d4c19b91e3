package vm

import (
	"context"
	"errors"
	"fmt"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// Delete removes a VM and everything that is its own. One that runs, or is coming up, is deleted only by force; force calls off starts and
// restarts that are under way or wait. Once begun, a delete goes on although ctx ends.
func (m *Manager) Delete(ctx context.Context, ref string, force bool, report step.Reporter) error {
	e, err := m.find(ref)
	if err != nil {
		return err
	}
	if v := e.record(); !force && (v.State == model.Starting || hasMemory(v)) {
		return stillRuns(v)
	}
	ctx, release, err := e.lock.takeOver(ctx, "delete", func(operation string) bool {
		return force && (operation == opStart || operation == opRestart)
	})
	if err != nil {
		return fmt.Errorf("waiting for VM %s: %w", ref, err)
	}
	defer release()
	if err := m.settleUnrecorded(ctx, e); err != nil {
		if !force || m.life.Err() != nil {
			return err
		}
		// On a full disk it cannot be recorded that the VM has come to rest either; what is left of its run goes with the rest of it.
		m.logger(e.record()).WarnContext(ctx, "deleting a VM that could not be settled", "error", err)
	}
	if v := e.record(); !force && hasMemory(v) {
		return stillRuns(v) // started while we waited
	}
	end := report.Track("delete", e.record().Spec.Name)
	err = m.delete(ctx, e)
	end(err)
	m.observe(ctx)
	return err
}

// hasMemory tells whether something would be lost with a VM's memory.
func hasMemory(v model.VM) bool {
	return v.State == model.Running || v.State == model.Paused || v.State == model.Suspended
}

func stillRuns(v model.VM) error {
	f := fault.New(fault.WrongState, "VM %s is %s", v.Spec.Name, v.State)
	if v.State == model.Suspended {
		return f.WithHint("`banger resume %s` lets it go on; with --force it is deleted, and its memory with it", v.Spec.Name)
	}
	return f.WithHint("stop it first, or delete it with --force")
}

func (m *Manager) delete(ctx context.Context, e *entry) error {
	ctx = context.WithoutCancel(ctx)
	if err := m.update(ctx, e, func(v *model.VM) { v.State = model.Deleting }); err != nil {
		// On a full disk, deleting is what makes room. A crash in the middle then leaves a record that can be deleted again.
		m.logger(e.record()).WarnContext(ctx, "deleting without having recorded it", "error", err)
	}
	return m.remove(ctx, e)
}

// removeIfAsked deletes a VM that has come to rest if it was made to be thrown away then. The caller holds the operation lock.
func (m *Manager) removeIfAsked(ctx context.Context, e *entry) {
	v := e.record()
	if v.Spec.Remove == model.RemoveNever || v.State != model.Stopped {
		return
	}
	if err := m.delete(ctx, e); err != nil {
		m.logger(v).ErrorContext(ctx, "deleting a VM that ended", "error", err)
	}
}

// Prune deletes all VMs that are stopped or failed to start.
func (m *Manager) Prune(ctx context.Context) (model.Pruned, error) {
	pruned := model.Pruned{Removed: []string{}}
	var errs []error
	for _, v := range m.List() {
		if v.State != model.Stopped && v.State != model.Failed {
			continue
		}
		freed := m.diskUse(v)
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

// diskUse is what the VM's disks take up on the host.
func (m *Manager) diskUse(v model.VM) model.Bytes {
	files := m.Layout.VM(v.ID)
	var sum model.Bytes
	for _, path := range []string{files.SystemDisk(), files.WorkDisk()} {
		if _, allocated, err := disk.Usage(path); err == nil {
			sum += allocated
		}
	}
	return sum
}
