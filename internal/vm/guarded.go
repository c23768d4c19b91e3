package vm

import (
	"context"
	"slices"
	"time"

	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
)

// Guarded is the VMs as the guard of the host's free space sees them.
type Guarded struct{ *Manager }

// Writers returns the VMs whose guests may run. A stop continues a paused one before it records so.
func (g Guarded) Writers() []model.VM {
	return slices.DeleteFunc(g.List(), func(v model.VM) bool {
		e, err := g.records.Find(v.ID)
		return err != nil || e.Machine() == nil || v.State == model.Paused && !e.Lock.Busy()
	})
}

// Machine returns the machine of a VM. An operation may be under way.
func (g Guarded) Machine(id string) (*machine.Machine, error) {
	e, err := g.records.Find(id)
	if err != nil {
		return nil, err
	}
	v, m := e.State()
	if m == nil {
		return nil, fault.New(fault.WrongState, "VM %s has no machine", v.Spec.Name)
	}
	return m, nil
}

// lookTimeout bounds the wait for the operation lock of a VM.
const lookTimeout = 100 * time.Millisecond

// With calls do with the machine of a VM that runs, and with a function that tells its guest that
// time has passed. If an operation is under way, the error is fault.Locked. This is no operation:
// it must not delay the builds of templates.
func (g Guarded) With(ctx context.Context, id string, do func(m *machine.Machine, thaw func(context.Context) error) error) error {
	e, err := g.records.Find(id)
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	_, release, err := e.Lock.Acquire(wait, "hold")
	if err != nil {
		return fault.New(fault.Locked, "VM %s: %w", e.Record().Spec.Name, err)
	}
	defer release()
	v, m := e.State()
	if v.State != model.Running || m == nil {
		return fault.New(fault.WrongState, "VM %s does not run", v.Spec.Name)
	}
	return do(m, (&operation{core: g.core, e: e}).thaw)
}
