package vm

import (
	"context"
	"time"

	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
)

// Guarded is the VMs as the guard of the host's free space sees them.
type Guarded struct{ *Manager }

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
