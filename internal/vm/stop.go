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
	"banger/internal/step"
)

// Stop asks the guest to power off, waits for timeout (nil: the configured one; 0: not at all), and
// then ends the machine, which is an error if the VM stays. A stopped VM is success. Once begun, a
// stop continues although ctx ends.
func (m *Manager) Stop(ctx context.Context, ref string, timeout *time.Duration, report step.Reporter) (model.VM, error) {
	return perform(ctx, m.core, ref, opStop, report, func(ctx context.Context, op *operation) (model.VM, error) {
		if s := op.record().State; s == model.Stopped || s == model.Failed {
			report.Report(step.Event{Step: "stop", Phase: step.Skipped, Detail: "already stopped"})
		}
		lost, err := stopping{op}.stop(ctx, timeout, report)
		if err != nil {
			return op.record(), errors.Join(lost, err)
		}
		v := op.record()
		op.removeIfAsked(ctx)
		m.observe(ctx)
		if v.Spec.Remove != model.RemoveNever { // nobody misses what it has lost
			lost = nil
		}
		return v, lost
	})
}

// Restart stops the VM if it runs, and starts it, also if the stop has lost something, which is an
// error as with Stop.
func (m *Manager) Restart(ctx context.Context, ref string, timeout *time.Duration, report step.Reporter) (model.VM, error) {
	return perform(ctx, m.core, ref, opRestart, report, func(ctx context.Context, op *operation) (model.VM, error) {
		lost, err := stopping{op}.stop(ctx, timeout, report)
		if err != nil {
			return op.record(), errors.Join(lost, err)
		}
		defer m.observe(ctx)
		if ctx.Err() != nil {
			op.removeIfAsked(ctx)
			return op.record(), errors.Join(fmt.Errorf("stopped, not started again: %w", context.Cause(ctx)), lost)
		}
		err = op.start(ctx, nil, "", report)
		return op.record(), errors.Join(lost, err)
	})
}

// stopping is an operation that stops its VM.
type stopping struct{ *operation }

// stop brings the VM to rest. lost says what its guest may not have saved, because banger has ended
// the machine instead of the guest. It is nil if no power-off was wanted, and for programs that did
// not end in time: their guest has saved the rest.
func (op stopping) stop(ctx context.Context, timeout *time.Duration, report step.Reporter) (lost, err error) {
	ctx, cancel := oplock.Outlive(ctx, 0)
	defer cancel()
	if op.record().State == model.Broken {
		if err := repairs(op).endBroken(ctx); err != nil {
			return nil, err
		}
	}
	v := op.record()
	held := op.Room.Held(v.ID) // now: the guard forgets a hold when the stop begins
	grace := op.StopTimeout
	if timeout != nil {
		grace = *timeout
	}
	// waiting would change nothing, and ending the machine is not what was asked for
	if l := op.e.Machine(); l != nil && grace > 0 && (v.State == model.Running || v.State == model.Paused) {
		if err := l.CheckReach(); err != nil {
			return nil, fmt.Errorf("stopping VM %s: %w", v.Spec.Name, err)
		}
	}
	switch v.State {
	case model.Stopped, model.Failed:
		return nil, nil
	case model.Running:
	case model.Paused, model.Suspended: // only a guest that runs can power off
		if grace <= 0 {
			return nil, op.settle(ctx, nil)
		}
		resume := op.resume
		if v.State == model.Paused {
			// Nothing is recorded: the disk may be full, and recovery asks the machine.
			resume = func(ctx context.Context, report step.Reporter) error {
				return op.continueGuest(step.WithWaits(ctx, report))
			}
		}
		if err := resume(ctx, report); err != nil && (v.State == model.Suspended || op.waits.Err() != nil) {
			return nil, err
		} else if err != nil {
			lost = fault.New(fault.Unavailable, "the guest may not have saved its data: it did not continue: %w", err)
		}
	default:
		return nil, fault.New(fault.WrongState, "VM %s is %s", v.Spec.Name, v.State.Phrase())
	}
	stopping := func(v *model.VM) { v.State = model.Stopping }
	if err := op.update(ctx, stopping); err != nil {
		// A stop needs no space: after a crash, a running VM whose machine has ended is stopped.
		op.logger(v).WarnContext(ctx, "stopping a VM without having recorded it", "error", err)
		op.e.Show(stopping)
	}
	end := report.Track(step.PowerOff, "")
	if lost == nil {
		lost = op.powerOff(step.WithWaits(ctx, report), held, grace, timeout != nil)
	}
	end(lost)
	if lost != nil && op.waits.Err() != nil && !op.e.Machine().HasEnded() {
		// its guest powers off by itself, and saves its data
		return nil, errors.Join(fmt.Errorf("VM %s was asked to power off: %w", op.name(), errEnding),
			op.update(ctx, func(v *model.VM) { v.State = model.Running }))
	}
	if lost == nil || ctx.Err() != nil { // somebody ends the machine
		return nil, op.settle(ctx, nil)
	}
	op.logger(v).WarnContext(ctx, "stopping a VM whose guest may not have saved its data", "error", lost)
	why := op.failure(v, &step.Error{Step: step.PowerOff, Err: lost})
	if lost = fmt.Errorf("VM %s was ended: %w", op.name(), lost); op.e.Machine().HasEnded() {
		lost = nil // by its guest
	}
	return lost, op.settle(ctx, why)
}

// powerOff has the guest power off, and returns what was lost: nil if nothing.
func (op stopping) powerOff(ctx context.Context, held *model.Hold, grace time.Duration, fixed bool) error {
	l := op.e.Machine()
	if grace <= 0 || l == nil {
		return nil
	}
	return op.host.PowerOff(ctx, machine.PowerOff{
		Subject: op.machineSubject(), Machine: l, Grace: grace, Fixed: fixed,
		Held: held, HeldNow: func() *model.Hold { return op.Room.Held(op.record().ID) },
	})
}
