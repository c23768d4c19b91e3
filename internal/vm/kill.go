package vm

import (
	"context"
	"fmt"
	"syscall"

	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/pace"
	"banger/internal/vm/explain"
	"banger/internal/vm/record"
	"banger/internal/vmm"
)

// interrupt calls off what works on a VM or waits for that, and sends the VM's machine a signal. So
// whatever waits for the guest ends. called is how many operations it has called off.
func interrupt(e *record.Entry, why error, sig syscall.Signal) (called int, l *machine.Machine, err error) {
	l = e.Machine()
	if l != nil && why == machine.ErrKilled {
		l.MarkKilled()
	}
	called = e.Lock.CallOff(why, func(operation string) bool { return kind(operation).mayWait() })
	return called, l, signal(e, l, sig)
}

// signal sends a signal to the VM's machine, if there is one.
func signal(e *record.Entry, l *machine.Machine, sig syscall.Signal) error {
	if l == nil {
		return nil
	}
	if err := l.Instance.Signal(sig); err != nil {
		return fmt.Errorf("sending %v to the VMM of %s: %w", sig, e.Record().Spec.Name, err)
	}
	return nil
}

// Kill sends the VM's VMM a signal. A signal that ends processes also calls off the operations on
// the VM, so that none is waited for, and Kill returns when the VM has come to rest.
func (m *Manager) Kill(ctx context.Context, ref string, sig syscall.Signal) (model.VM, error) {
	e, err := m.records.Find(ref)
	if err != nil {
		return model.VM{}, err
	}
	if !vmm.IsFatal(sig) { // nothing ends
		err := m.recovered(ctx, e)
		if l := e.Machine(); err == nil && l == nil {
			err = explain.NothingToKill(e.Record())
		} else if err == nil {
			err = signal(e, l, sig)
		}
		return e.Shown(), err
	}
	if v := e.Shown(); (v.State == model.Stopped || v.State == model.Failed) && e.Machine() == nil {
		return v, explain.NothingToKill(v) // what works on it is not called off
	}
	before := e.Record().State
	turn := e.Lock.Enqueue(ctx, string(opKill)) // what comes later is not called off
	called, l, err := interrupt(e, machine.ErrKilled, sig)
	if err != nil {
		turn.Release()
		return e.Record(), err
	}
	v, err := during(m.core, e, turn, opKill, func(ctx context.Context, op *operation) (model.VM, error) {
		defer op.observe(ctx)
		switch v, now := e.State(); {
		case now != nil:
			err := endBySignal(ctx, op, now, sig)
			return op.record(), err
		case e.IsHidden() && v.Runtime == nil && !op.host.HasRunDir(v.ID):
			err = explain.NothingToKill(v)
		case e.IsHidden(): // it may have memory that only its record knows
			err = repairs{op}.endBroken(ctx)
		case v.State == model.Broken, v.State == model.Suspended && before == v.State:
			err = op.settle(ctx, nil) // as if its power had failed
		case l == nil && called == 0:
			err = explain.NothingToKill(v)
		default:
			err = repairs{op}.settleUnrecorded(ctx, true)
		}
		v := op.record()
		op.removeIfAsked(ctx)
		return v, err
	})
	// it was to be deleted when it stops
	if (l != nil || called > 0) && fault.KindOf(err) == fault.NotFound {
		return e.Record(), nil
	}
	return v, err
}

// endBySignal ends a machine, and brings its VM to rest.
func endBySignal(ctx context.Context, op *operation, l *machine.Machine, sig syscall.Signal) error {
	l.MarkKilled() // it may have come up since the interrupt
	if err := signal(op.e, l, sig); err != nil {
		return err
	}
	ctx, cancel := pace.Context(ctx, killTimeout, "end of the VMM")
	defer cancel()
	exit, err := l.Instance.Wait(ctx)
	if err != nil {
		return fmt.Errorf("waiting for the VMM of %s to end: %w", op.name(), err)
	}
	op.settleEnded(ctx, exit)
	return nil
}
