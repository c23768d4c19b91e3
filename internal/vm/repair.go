package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"banger/internal/disk"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/oplock"
	"banger/internal/step"
	"banger/internal/vm/explain"
	"banger/internal/vm/moment"
	"banger/internal/vm/record"
	"banger/internal/vmdir"
)

// repairs completes what earlier operations could not.
type repairs struct{ *operation }

// repair completes what an earlier operation could not, usually because the host's disk was full.
// It settles a VM whose end was not recorded, places the disks of a restore, and thaws a guest that
// is still frozen after it was saved.
func (op repairs) repair(ctx context.Context) error {
	if err := op.settleUnrecorded(ctx, false); err != nil {
		return err
	}
	if err := op.completeRestore(ctx, nil); err != nil {
		return err
	}
	if v := op.record(); v.State == model.Stopped || v.State == model.Failed { // see recovery.older
		if _, err := op.asleep(ctx); err != nil {
			return err
		}
	}
	op.thawHeld(ctx)
	return nil
}

// settleUnrecorded brings a VM to rest whose last operation, or whose machine's end, could not be
// recorded. One that was to be paused or suspended runs again. ends says that its end is wanted.
func (op repairs) settleUnrecorded(ctx context.Context, ends bool) error {
	v, l := op.e.State()
	switch v.State {
	case model.Creating, model.Deleting: // all that is left is to delete it
		return nil
	case model.Running, model.Paused:
		if l != nil {
			return nil
		}
	default:
		if !v.State.Between() {
			return nil
		}
	}
	if !ends && op.waits.Err() != nil || op.life.Err() != nil { // the next daemon does it
		return fmt.Errorf("VM %s: %w", v.Spec.Name, errEnding)
	}
	op.logger(v).WarnContext(ctx, "settling a VM whose last operation could not record its end", "state", v.State)
	if v.State == model.Starting { // what it was to resume from stays
		return ending(op).abandonStart(ctx, v.LastError, model.Stopped)
	}
	if v.State == model.Pausing && l != nil { // which is as well as before
		return op.callOffPause(ctx)
	}
	return op.rest(ctx, nil)
}

// rest brings a VM whose machine has ended to rest: suspended if it has memory, otherwise stopped.
// Memory that lies beside other disks than the machine had is left to the next command.
func (op repairs) rest(ctx context.Context, why *model.Failure) error {
	if op.e.Replaced() == nil {
		if asleep, err := op.asleep(ctx); asleep || err != nil {
			return err
		}
	}
	return op.settle(ctx, why)
}

// asleep makes a VM without a machine suspended, if it has memory that is no history, and is none
// of a restore: completeRestore does that. If nobody can record it now, the VM is shown as pausing,
// and settleUnrecorded tries again.
func (op repairs) asleep(ctx context.Context) (bool, error) {
	if len(op.record().Restoring) > 0 || !disk.MayExist(op.dirs().Suspended()) {
		return false, nil
	}
	misfit := moment.CheckKept(ctx, op.name(), op.dirs())
	if misfit != nil && moment.IsHistory(ctx, op.record(), op.dirs()) {
		return false, nil
	}
	op.e.Show(func(v *model.VM) { v.State = model.Pausing })
	if err := op.update(ctx, func(v *model.VM) { v.State = model.Suspended }); err != nil {
		return false, err
	}
	if err := op.endSuspended(ctx); err != nil || misfit == nil {
		return true, err
	}
	op.logger(op.record()).WarnContext(ctx, "keeping the memory of a VM that cannot be resumed", "error", misfit)
	return true, op.update(ctx, func(v *model.VM) { v.LastError = op.failure(*v, misfit) })
}

// endBroken ends what an earlier run has left of a broken VM. As at the daemon's start, the VM is
// suspended then if it has memory. Without its directory nobody can find out.
func (op repairs) endBroken(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	if err := op.tearDown(ctx); err != nil {
		return errors.Join(err, op.markBroken(ctx, err))
	}
	if op.e.IsHidden() && vmdir.IsMissing(op.dirs()) {
		return nil
	}
	if asleep, err := op.asleep(ctx); asleep || err != nil {
		return err
	}
	return op.settle(ctx, nil)
}

// callOffPause makes a VM run that is between running and paused or suspended. If the guest does
// not thaw, the VM is paused: it can be resumed when the cause is gone. If the machine does not
// continue, the VM stays as it is, and settleUnrecorded tries again: nothing of it may be lost.
func (op repairs) callOffPause(ctx context.Context) error {
	off := oplock.Off(ctx)
	ctx, cancel := oplock.Outlive(ctx, thawGrace)
	defer cancel()
	v := op.record()
	// the guard of the free space continues and thaws it
	if op.Room.Held(v.ID) != nil && !op.e.Machine().HasEnded() {
		return errors.Join(moment.MarkHeld(op.dirs()), op.update(ctx, func(v *model.VM) { v.State = model.Running }))
	}
	if err := op.e.Machine().Resume(ctx); err != nil {
		err = fmt.Errorf("continuing it: %w", err)
		if off.Err() == nil && op.e.Machine().HasEnded() {
			err = errors.Join(err, op.rest(ctx, op.failure(v, err)))
		}
		return err
	}
	thawErr := op.thaw(ctx)
	if thawErr != nil && off.Err() != nil {
		return thawErr
	}
	err := machine.RemoveAll(op.dirs().Held())
	if thawErr == nil {
		return errors.Join(err, op.update(ctx, func(v *model.VM) { v.State = model.Running }))
	}
	failure := op.failure(v, thawErr)
	failure.Hint = "`banger resume " + v.Spec.Name + "` tries again"
	for _, state := range []model.State{model.Pausing, model.Paused} {
		err = errors.Join(err, op.update(ctx, func(v *model.VM) { v.State, v.LastError = state, failure }))
	}
	return errors.Join(thawErr, err)
}

// isHeld reports whether a running VM was not thawed after it had been saved.
func (op repairs) isHeld() bool {
	v := op.record()
	_, err := os.Stat(op.dirsOf(v).Held())
	return v.State == model.Running && err == nil
}

// thawHeld tries again to let a VM continue that is held.
func (op repairs) thawHeld(ctx context.Context) {
	if op.e.Machine() == nil || !op.isHeld() || op.waits.Err() != nil || op.Room.Held(op.record().ID) != nil {
		return
	}
	err := op.continueGuest(ctx)
	if err == nil {
		err = machine.RemoveAll(op.dirs().Held())
	}
	if err != nil {
		op.logger(op.record()).WarnContext(ctx, "thawing a VM that is held", "error", err)
	}
}

// completeRestore completes a restore that has its record. The VM cannot be used before.
func (op repairs) completeRestore(ctx context.Context, report step.Reporter) error {
	v := op.record()
	if len(v.Restoring) == 0 {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	files := op.dirs()
	if vmdir.IsMissing(files) {
		return fmt.Errorf("completing a restore: %w", explain.Missing(v, files))
	}
	if !disk.MayExist(files.Restored()) { // the record is older: the restore was completed
		return op.update(ctx, func(v *model.VM) { v.Restoring = nil })
	}
	if v.State != model.Stopped && v.State != model.Failed {
		if err := op.settle(ctx, nil); err != nil {
			return fmt.Errorf("ending what VM %s was before its restore: %w", v.Spec.Name, err)
		}
	}
	if err := op.placeRestored(ctx, report); err != nil {
		return fmt.Errorf("completing the restore of VM %s: %w", v.Spec.Name, err)
	}
	return nil
}

// placeRestored moves the disks and the memory of a restore to their places. It continues where an
// earlier call was cut off.
func (op repairs) placeRestored(ctx context.Context, report step.Reporter) error {
	memory, err := moment.Place(op.dirs(), op.record().Restoring, report)
	if err != nil {
		return err
	}
	if err := op.update(ctx, func(v *model.VM) {
		v.State, v.LastError, v.Restoring = model.Stopped, nil, nil
		if memory {
			v.State = model.Suspended
		}
	}); err != nil {
		return err
	}
	return machine.RemoveAll(op.dirs().Restored())
}

// deleteUnwanted tries again to delete the VMs with names that are wanted again, if their deletion
// could not be recorded. It waits for the VMM of no other VM. The caller holds no operation lock.
func (c *core) deleteUnwanted(ctx context.Context, names ...string) {
	var meant []*record.Entry
	for _, e := range c.records.Entries() {
		if slices.Contains(names, e.Record().Spec.Name) {
			meant = append(meant, e)
		}
	}
	c.retryDeletions(ctx, meant)
}

func (c *core) retryDeletions(ctx context.Context, entries []*record.Entry) {
	c.retry(ctx, entries, (*record.Entry).IsUnwanted, func(ctx context.Context, op *operation) {
		if op.remove(context.WithoutCancel(ctx)) == nil { // a failure was logged when it came first
			op.observe(ctx)
		}
	})
}

// retry does something about each VM that needs it.
func (c *core) retry(
	ctx context.Context, entries []*record.Entry, needed func(*record.Entry) bool, do func(context.Context, *operation),
) {
	for _, e := range entries {
		if !needed(e) {
			continue
		}
		// It fails if the VM was deleted, or at Close.
		_, _ = operateOn(ctx, c, e, opSettle, func(ctx context.Context, op *operation) (any, error) {
			if needed(e) {
				ctx, cancel := oplock.Outlive(ctx, 0)
				defer cancel()
				do(ctx, op)
			}
			return nil, nil
		})
	}
}

// retryCleanups removes what suspended VMs have left, and what is left of deleted ones. It brings
// VMs to rest whose last operation could not record its end.
func (c *core) retryCleanups(ctx context.Context) {
	c.retryDeletions(ctx, c.records.Entries())
	leftover := func(e *record.Entry) bool {
		v := e.Record()
		return v.State == model.Suspended && v.Runtime != nil
	}
	c.retry(ctx, c.records.Entries(), leftover, func(ctx context.Context, op *operation) {
		before := op.record()
		// what the record has told since an earlier try is not logged again
		if err := op.endSuspended(ctx); err != nil && (before.LastError == nil || op.record().Revision != before.Revision) {
			op.logger(op.record()).WarnContext(ctx, "removing what a suspended VM left", "error", err)
		}
	})
	var stuck []*record.Entry
	for _, e := range c.records.Entries() {
		if !e.Lock.Busy() && isBetween(e) {
			stuck = append(stuck, e)
		}
	}
	c.retry(ctx, stuck, isBetween, func(ctx context.Context, op *operation) {
		if err := (repairs{op}).repair(ctx); err != nil {
			op.logger(op.record()).WarnContext(ctx, "settling a VM whose last operation could not record its end", "error", err)
		}
		op.observe(ctx)
	})
}

// isBetween reports whether the record shows an operation that changes what runs.
func isBetween(e *record.Entry) bool {
	state := e.Record().State
	return state.Between() && state != model.Creating && state != model.Deleting
}
