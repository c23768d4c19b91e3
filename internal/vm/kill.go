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
	"banger/internal/vmm"
)

// interrupt calls off what works on a VM or waits for that, and sends the VM's machine a signal. So
// whatever waits for the guest ends. called is how many operations it has called off.
func (e *entry) interrupt(why error, sig syscall.Signal) (called int, l *machine.Machine, err error) {
	l = e.machine()
	if l != nil && why == machine.ErrKilled {
		l.MarkKilled()
	}
	called = e.lock.CallOff(why, func(operation string) bool { return kind(operation).mayWait() })
	return called, l, e.signal(l, sig)
}

// signal sends a signal to the VM's machine, if there is one.
func (e *entry) signal(l *machine.Machine, sig syscall.Signal) error {
	if l == nil {
		return nil
	}
	if err := l.Instance.Signal(sig); err != nil {
		return fmt.Errorf("sending %v to the VMM of %s: %w", sig, e.record().Spec.Name, err)
	}
	return nil
}

// Kill sends the VM's VMM a signal. A signal that ends processes also calls off the operations on
// the VM, so that none is waited for, and Kill returns when the VM has come to rest.
func (m *Manager) Kill(ctx context.Context, ref string, sig syscall.Signal) (model.VM, error) {
	e, err := m.records.find(ref)
	if err != nil {
		return model.VM{}, err
	}
	if !vmm.IsFatal(sig) { // nothing ends
		err := m.awaitRecovery(ctx, e)
		if l := e.machine(); err == nil && l == nil {
			err = explain.NothingToKill(e.record())
		} else if err == nil {
			err = e.signal(l, sig)
		}
		return e.shown(), err
	}
	if v := e.shown(); (v.State == model.Stopped || v.State == model.Failed) && e.machine() == nil {
		return v, explain.NothingToKill(v) // what works on it is not called off
	}
	before := e.record().State
	turn := e.lock.Enqueue(ctx, string(opKill)) // what comes later is not called off
	called, l, err := e.interrupt(machine.ErrKilled, sig)
	if err != nil {
		turn.Release()
		return e.record(), err
	}
	v, err := during(m.core, e, turn, opKill, func(ctx context.Context, op *operation) (model.VM, error) {
		defer op.observe(ctx)
		switch v, now := e.state(); {
		case now != nil:
			err := endBySignal(ctx, op, now, sig)
			return op.record(), err
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
		return e.record(), nil
	}
	return v, err
}

// endBySignal ends a machine, and brings its VM to rest.
func endBySignal(ctx context.Context, op *operation, l *machine.Machine, sig syscall.Signal) error {
	l.MarkKilled() // it may have come up since the interrupt
	if err := op.e.signal(l, sig); err != nil {
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
