package vm

import (
	"context"
	"time"

	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/pace"
	"banger/internal/vm/explain"
	"banger/internal/vm/room"
)

const (
	idleLook   = 5 * time.Second  // between two looks at the VMs that are to be suspended when idle
	retryAfter = 30 * time.Second // between two tries of a cleanup that failed
)

// Agent returns the agent of a running VM. If the VM is being recovered, it waits as long as ctx
// allows.
func (m *Manager) Agent(ctx context.Context, ref string) (machine.Agent, error) {
	e, err := m.records.Find(ref)
	if err != nil {
		return nil, err
	}
	if err := m.recovered(ctx, e); err != nil {
		return nil, err
	}
	v, l := e.State()
	if v.State != model.Running || l == nil {
		return nil, explain.NotRunning(v)
	}
	if err := room.CheckNotHeld(v, m.Room); err != nil {
		return nil, err
	}
	return l.Agent, nil
}

// Use returns the agent of a running VM and counts as use of it until done is called. A VM that was
// suspended as idle is woken.
func (m *Manager) Use(ctx context.Context, ref string) (v model.VM, agent machine.Agent, done func(), err error) {
	e, err := m.records.Find(ref)
	if err != nil {
		return model.VM{}, nil, nil, err
	}
	if err := m.recovered(ctx, e); err != nil {
		return e.Shown(), nil, nil, err
	}
	if err := room.CheckNotHeld(e.Record(), m.Room); err != nil {
		return e.Record(), nil, nil, err
	}
	if agent, done, ok := e.Use(); ok {
		return e.Record(), agent, done, nil
	}
	if v := e.Record(); v.Spec.IdleSuspend == 0 || !e.MayWake() {
		return v, nil, nil, explain.NotRunning(v)
	}
	if err := wake(ctx, m.core, e.Record().ID); err != nil {
		return e.Record(), nil, nil, err
	}
	agent, done, ok := e.Use()
	if !ok {
		return e.Record(), nil, nil, explain.NotRunning(e.Record())
	}
	return e.Record(), agent, done, nil
}

// wake waits for what is done with the VM, and resumes it if it is suspended then.
func wake(ctx context.Context, c *core, id string) error {
	_, err := perform(ctx, c, id, opStart, nil, func(ctx context.Context, op *operation) (any, error) {
		if op.record().State != model.Suspended {
			return nil, nil
		}
		return nil, op.resume(ctx, nil)
	})
	return err
}

// background does something every so often, until Close.
func (c *core) background(every time.Duration, do func(ctx context.Context, now time.Time)) {
	c.wg.Go(func() { pace.Every(c.life, every, do) })
}

// suspendIdle suspends the VMs that nobody uses and that are to be suspended then, all at once: one
// whose guest does not answer must not delay the others. It returns when it has begun. Without room
// for their memory, they stay.
func (c *core) suspendIdle(ctx context.Context, now time.Time) {
	if c.Room.Check() != nil {
		return
	}
	for _, e := range c.records.Entries() {
		v := e.Record()
		if v.Spec.IdleSuspend == 0 || v.State != model.Running || e.Lock.Busy() || e.IdleFor(now) < v.Spec.IdleSuspend {
			continue
		}
		c.wg.Go(func() {
			if err := c.suspendUnused(ctx, v.ID); err != nil {
				c.logger(v).WarnContext(ctx, "suspending an idle VM; it is tried again later", "error", err)
				e.UsedNow() // a guest that does not answer would be saved again and again
			}
		})
	}
}

// suspendUnused suspends a VM unless somebody has begun to use it.
func (c *core) suspendUnused(ctx context.Context, id string) error {
	found := false
	_, err := perform(ctx, c, id, opSuspend, nil, func(ctx context.Context, op *operation) (any, error) {
		found = true
		if op.record().State != model.Running || !op.e.Leave() {
			return nil, nil
		}
		defer op.e.Stay()
		err := suspending{op}.suspend(ctx, nil)
		op.observe(ctx)
		return nil, err
	})
	if !found && fault.KindOf(err) == fault.NotFound { // deleted meanwhile
		return nil
	}
	return err
}
