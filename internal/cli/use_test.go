package cli

import (
	"context"

	"banger/internal/machine"
	"banger/internal/model"
)

// Use is Agent, but resumes a VM that was suspended because it was idle.
func (m fakeManager) Use(ctx context.Context, ref string) (model.VM, machine.Agent, func(), error) {
	v, err := m.update(ref, func(v *model.VM) error {
		if v.State == model.Suspended && v.Spec.IdleSuspend > 0 {
			v.State = model.Running
		}
		return nil
	})
	if err != nil {
		return v, nil, nil, err
	}
	a, err := m.Agent(ctx, ref)
	return v, a, func() {}, err
}

func (fakeAgent) Sync(context.Context) error { return nil }
