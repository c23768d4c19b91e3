package vm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/oplock"
	"banger/internal/snapshot"
	"banger/internal/step"
	"banger/internal/vm/explain"
	"banger/internal/vm/moment"
)

// suspending is an operation that halts its VM.
type suspending struct{ *operation }

// suspend saves the machine before anything is given up: up to the record that says "suspended" the
// VM can continue as if nothing had happened. It continues although ctx ends.
func (op suspending) suspend(ctx context.Context, report step.Reporter) (err error) {
	before := op.record()
	ctx, cancel := oplock.Outlive(step.WithWaits(ctx, report), 0)
	defer cancel()
	op.sync(ctx)
	if ctx.Err() != nil {
		return fmt.Errorf("suspending VM %s: %w", before.Spec.Name, context.Cause(ctx))
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("suspending VM %s: %w", before.Spec.Name, err)
		}
	}()
	if err := op.update(ctx, func(v *model.VM) { v.State = model.Pausing }); err != nil {
		return err
	}
	end := report.Track("memory", before.Runtime.Spec.Memory.String())
	err = op.keepMemory(ctx, before.State == model.Running)
	end(err)
	if err == nil {
		err = op.update(ctx, func(v *model.VM) { v.State = model.Suspended })
	}
	if err != nil && op.e.Machine().HasEnded() { // nothing but what is saved is left of it
		return errors.Join(err, repairs(op).callOffPause(ctx))
	}
	if err != nil {
		undo := snapshot.Remove(op.dirs().Suspended()) // at once: half a memory would look damaged
		if before.State == model.Running {
			return errors.Join(err, undo, repairs(op).callOffPause(ctx))
		}
		return errors.Join(err, undo, op.update(ctx, func(v *model.VM) { v.State = before.State }))
	}
	return op.endSuspended(ctx)
}

// keepMemory saves the VM's machine and leaves it halted. The disks stay the VM's own.
func (op suspending) keepMemory(ctx context.Context, running bool) error {
	dir := op.dirs().Suspended()
	// what it was resumed from, if that could not be removed then
	if err := snapshot.Remove(dir); err != nil {
		return err
	}
	draft, err := snapshot.Create(dir)
	if err != nil {
		return err
	}
	defer draft.Discard()
	done, err := op.e.Machine().Capture(ctx, machine.Capture{Draft: draft, Freeze: running, Paused: !running, Halt: true})
	if err != nil {
		return err
	}
	meta, err := op.captured().Meta(ctx, time.Now())
	if err != nil {
		return err
	}
	meta.Layout = done.Layout
	return moment.Suspend(ctx, draft, meta, op.dirs())
}

// resume lets a paused or suspended VM continue.
func (op *operation) resume(ctx context.Context, report step.Reporter) error {
	defer op.observe(ctx)
	switch v := op.record(); v.State {
	case model.Paused:
		// before the guest continues: nobody may take what runs for paused
		if err := op.update(ctx, func(v *model.VM) { v.State = model.Pausing }); err != nil {
			return fmt.Errorf("resuming VM %s: %w", v.Spec.Name, err)
		}
		if err := op.continueGuest(step.WithWaits(ctx, report)); err != nil {
			undo := op.update(ctx, func(v *model.VM) { v.State = model.Paused })
			return errors.Join(fmt.Errorf("resuming VM %s: %w", v.Spec.Name, err), undo)
		}
		return op.update(ctx, func(v *model.VM) { v.State, v.LastError = model.Running, nil })
	case model.Suspended:
		if v.Runtime != nil {
			if err := op.endSuspended(context.WithoutCancel(ctx)); err != nil {
				return fmt.Errorf("resuming VM %s: %w", v.Spec.Name, err)
			}
		}
		from, driver, err := moment.Resume(ctx, op.record(), op.dirs())
		if err != nil {
			return fmt.Errorf("resuming VM %s: %w", v.Spec.Name, err)
		}
		return op.start(ctx, from, driver, report)
	default:
		return fault.New(fault.WrongState, "VM %s is neither paused nor suspended: it is %s", v.Spec.Name, v.State.Phrase())
	}
}

// Pause halts a running VM in memory: first its processes, so that none sees the clock jump, then
// its machine. Once begun, it continues although ctx ends.
func (m *Manager) Pause(ctx context.Context, ref string, report step.Reporter) (model.VM, error) {
	return perform(ctx, m.core, ref, opPause, report, func(ctx context.Context, op *operation) (model.VM, error) {
		switch v := op.record(); v.State {
		case model.Paused:
			paused, err := op.e.Machine().IsPaused(ctx, func() {})
			if paused {
				report.Report(step.Event{Step: "pause", Phase: step.Skipped, Detail: "already paused"})
			}
			if paused || err != nil {
				return v, err
			}
		case model.Running:
		default:
			return v, explain.NotRunning(v)
		}
		err := suspending{op}.pause(step.WithWaits(ctx, report))
		m.observe(ctx)
		return op.record(), err
	})
}

func (op suspending) pause(ctx context.Context) error {
	ctx, cancel := oplock.Outlive(ctx, 0)
	defer cancel()
	l := op.e.Machine()
	if err := l.CanPause(); err != nil {
		return fmt.Errorf("VM %s: %w", op.name(), err)
	}
	if err := op.update(ctx, func(v *model.VM) { v.State = model.Pausing }); err != nil {
		return err
	}
	err := l.Freeze(ctx)
	if err == nil {
		err = l.Pause(ctx)
	}
	if err == nil {
		err = op.update(ctx, func(v *model.VM) { v.State = model.Paused })
	}
	if err != nil { // what has failed may have had its effect all the same
		return errors.Join(fmt.Errorf("pausing VM %s: %w", op.name(), err), repairs(op).callOffPause(ctx))
	}
	return nil
}

// Resume lets a paused or suspended VM continue. A running one is success, which the report says.
func (m *Manager) Resume(ctx context.Context, ref string, report step.Reporter) (model.VM, error) {
	return perform(ctx, m.core, ref, opStart, report, func(ctx context.Context, op *operation) (model.VM, error) {
		v := op.record()
		if v.State == model.Running {
			report.Report(step.Event{Step: "resume", Phase: step.Skipped, Detail: "already running"})
			return v, nil
		}
		err := op.resume(ctx, report)
		return op.record(), err
	})
}

// Suspend keeps a VM's memory on disk and ends its machine. Resume lets the VM continue, also after
// a reboot of the host. Once begun, it continues although ctx ends.
func (m *Manager) Suspend(ctx context.Context, ref string, report step.Reporter) (model.VM, error) {
	return perform(ctx, m.core, ref, opSuspend, report, func(ctx context.Context, op *operation) (model.VM, error) {
		v := op.record()
		switch v.State {
		case model.Suspended:
			report.Report(step.Event{Step: "suspend", Phase: step.Skipped, Detail: "already suspended"})
			if v.Runtime == nil {
				return v, nil
			}
			err := op.endSuspended(context.WithoutCancel(ctx))
			return op.record(), err
		case model.Running, model.Paused:
		default:
			return v, explain.NotRunning(v)
		}
		err := suspending{op}.suspend(ctx, report)
		m.observe(ctx)
		return op.record(), err
	})
}
