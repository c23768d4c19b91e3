package cli

import (
	"context"

	"banger/internal/model"
	"banger/internal/vm"
)

// Use is Agent: nobody counts here.
func (m fakeManager) Use(_ context.Context, ref string) (model.VM, vm.Agent, func(), error) {
	v, err := m.Get(ref)
	if err != nil {
		return v, nil, nil, err
	}
	a, err := m.Agent(ref)
	return v, a, func() {}, err
}

func (fakeAgent) Sync(context.Context) error { return nil }
