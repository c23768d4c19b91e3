package server

import (
	"context"

	"banger/internal/machine"
	"banger/internal/model"
)

// Use is Agent: this manager counts no use.
func (m *manager) Use(ctx context.Context, ref string) (model.VM, machine.Agent, func(), error) {
	return useOf(ctx, m, ref)
}

func (m withAgent) Use(ctx context.Context, ref string) (model.VM, machine.Agent, func(), error) {
	return useOf(ctx, m, ref)
}

func useOf(ctx context.Context, m interface {
	Get(ref string) (model.VM, error)
	Agent(ctx context.Context, ref string) (machine.Agent, error)
}, ref string) (model.VM, machine.Agent, func(), error) {
	v, err := m.Get(ref)
	if err != nil {
		return v, nil, nil, err
	}
	a, err := m.Agent(ctx, v.ID)
	return v, a, func() {}, err
}
