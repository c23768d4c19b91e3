package vm

import (
	"context"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
)

const (
	idleLook = 5 * time.Second // between two looks at the VMs that are to be suspended when idle
	// idleCPU is the share of one CPU below which a VM's VMM is idle. A guest that does nothing takes 1-3 % in emulation.
	idleCPU = 0.10
)

// use is what an entry knows of how its VM is used. entry.mu guards it.
type use struct {
	users   int       // sessions that go on
	last    time.Time // when the last one ended, or the CPU was last seen to be busy
	leaving bool      // it is being suspended for want of use: who comes now waits for that, and wakes it

	cpu   time.Duration // what the VMM had used up...
	cpuAt time.Time     // ... at this moment
}

// Use returns the agent of a running VM and counts as use of it until done is called. A VM that was suspended for want of use is woken.
func (m *Manager) Use(ctx context.Context, ref string) (v model.VM, agent Agent, done func(), err error) {
	e, err := m.find(ref)
	if err != nil {
		return model.VM{}, nil, nil, err
	}
	if agent, done, ok := e.use(); ok {
		return e.record(), agent, done, nil
	}
	if v := e.record(); v.Spec.IdleSuspend == 0 || v.State != model.Suspended && v.State != model.Pausing && v.State != model.Starting && !e.isLeaving() {
		return v, nil, nil, notRunning(v)
	}
	if err := m.wake(ctx, e); err != nil {
		return e.record(), nil, nil, err
	}
	agent, done, ok := e.use()
	if !ok {
		return e.record(), nil, nil, notRunning(e.record())
	}
	return e.record(), agent, done, nil
}

// wake waits for what is done with the VM, and lets it go on if it is suspended then.
func (m *Manager) wake(ctx context.Context, e *entry) error {
	e, ctx, release, err := m.begin(ctx, e.record().ID, opStart)
	if err != nil {
		return err
	}
	defer release()
	if e.record().State != model.Suspended {
		return nil
	}
	return m.resume(ctx, e, nil)
}

// use counts a user, if the VM runs and is going to.
func (e *entry) use() (Agent, func(), bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.vm.State != model.Running || e.live == nil || e.used.leaving {
		return nil, nil, false
	}
	e.used.users++
	return e.live.agent, e.unuse, true
}

func (e *entry) unuse() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.used.users--
	e.used.last = time.Now()
}

func (e *entry) isLeaving() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.used.leaving
}

// leave announces that the VM is going to be suspended, unless somebody uses it.
func (e *entry) leave() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.used.users > 0 {
		return false
	}
	e.used.leaving = true
	return true
}

func (e *entry) left() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.used.leaving = false
}

// watchIdle suspends the VMs that nobody uses and that are to be suspended then, until ctx ends.
func (m *Manager) watchIdle(ctx context.Context) {
	look := time.NewTicker(idleLook)
	defer look.Stop()
	for {
		select {
		case now := <-look.C:
			m.suspendIdle(ctx, now)
		case <-ctx.Done():
			return
		}
	}
}

func (m *Manager) suspendIdle(ctx context.Context, now time.Time) {
	for _, v := range m.List() {
		if v.Spec.IdleSuspend == 0 || v.State != model.Running {
			continue
		}
		e, err := m.find(v.ID)
		if err != nil || e.idleFor(now) < v.Spec.IdleSuspend {
			continue
		}
		if err := m.suspendUnused(ctx, e); err != nil {
			m.logger(v).WarnContext(ctx, "suspending an idle VM", "error", err)
		}
	}
}

// suspendUnused suspends a VM unless somebody has begun to use it.
func (m *Manager) suspendUnused(ctx context.Context, e *entry) error {
	e, ctx, release, err := m.begin(ctx, e.record().ID, "suspend")
	if fault.KindOf(err) == fault.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	defer release()
	if e.record().State != model.Running || !e.leave() {
		return nil
	}
	defer e.left()
	err = m.suspend(context.WithoutCancel(ctx), e, nil)
	m.observe(ctx)
	return err
}

// idleFor is how long the VM has been without use: no session, and its VMM's CPU time growing slowly.
func (e *entry) idleFor(now time.Time) time.Duration {
	l := e.machine()
	var cpu time.Duration
	if l != nil {
		if s, ok := l.inst.(vmm.Statter); ok {
			if cost, err := s.Stats(); err == nil {
				cpu = cost.CPU
			}
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	u := &e.used
	share := 0.0
	if since := now.Sub(u.cpuAt); since > 0 && cpu >= u.cpu && !u.cpuAt.IsZero() {
		share = float64(cpu-u.cpu) / float64(since)
	}
	first := u.cpuAt.IsZero() || cpu < u.cpu // a machine that was not looked at before
	u.cpu, u.cpuAt = cpu, now
	if first || u.users > 0 || share > idleCPU {
		u.last = now
	}
	return now.Sub(u.last)
}
