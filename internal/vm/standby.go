package vm

import (
	"context"
	"errors"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
)

// standby is a machine that was restored from an image's template before anybody asked for it, and has answered: a start only has to give it
// an identity. It has been through all that once already, so that emulation has translated the code. It waits halted.
//
// It has a VM's id, folders and disks, and no record: the VM that takes it gets its id. What a crash leaves of it is found as an orphan.
type standby struct {
	j    job
	v    model.VM
	live *live
}

// fill brings as many machines to standby as there shall be of a template.
func (t *templates) fill(ctx context.Context, j job) error {
	for ctx.Err() == nil {
		t.mu.Lock()
		enough := len(t.ready[j.key]) >= t.Standby
		t.mu.Unlock()
		if enough {
			t.succeeded(j.name())
			return nil
		}
		sb, err := t.standBy(ctx, j)
		if fault.KindOf(err) == fault.NotFound { // the template is gone by now
			return nil
		}
		if err != nil {
			return err
		}
		t.mu.Lock()
		t.ready[j.key] = append(t.ready[j.key], sb)
		t.mu.Unlock()
	}
	return ctx.Err()
}

// standBy makes one standby machine.
func (t *templates) standBy(ctx context.Context, j job) (_ *standby, err error) {
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	from, err := t.open(ctx, j.key)
	if err != nil {
		return nil, err
	}
	defer from.close()
	from.Kind = model.FromTemplate
	b, err := t.bringUp(ctx, j, &from)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.takeAway(context.WithoutCancel(ctx)))
		}
	}()
	if err := b.settle(ctx); err != nil {
		return nil, err
	}
	if p, ok := b.live.inst.(vmm.Pauser); ok {
		if err := p.Pause(ctx); err != nil {
			return nil, err
		}
	}
	return &standby{j: j, v: b.v, live: b.live}, nil
}

// take returns a standby machine for a VM with this spec; nil when there is none.
func (t *templates) take(ctx context.Context, spec model.Spec) *standby {
	if t.Off || t.Standby == 0 {
		return nil
	}
	j, err := t.m.jobFor(ctx, spec)
	if err != nil {
		return nil // the start will say what is wrong
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, key := range t.fitting(j.fingerprint, spec) {
		if waiting := t.ready[key]; len(waiting) > 0 {
			t.ready[key] = waiting[1:]
			return waiting[0]
		}
	}
	return nil
}

// end ends a standby machine that nobody will take, and removes its files.
func (sb *standby) end(ctx context.Context, m *Manager) error {
	b := &build{m: m, j: sb.j, v: sb.v, live: sb.live}
	return b.takeAway(context.WithoutCancel(ctx))
}

// endStandby ends the standby machines of a template, or all of them for "".
func (t *templates) endStandby(ctx context.Context, key string) {
	t.mu.Lock()
	var all []*standby
	for k, list := range t.ready {
		if key == "" || k == key {
			all = append(all, list...)
			delete(t.ready, k)
		}
	}
	t.mu.Unlock()
	for _, sb := range all {
		if err := sb.end(ctx, t.m); err != nil {
			t.m.Log.ErrorContext(ctx, "ending a machine on standby", "vm", sb.v.ID, "error", err)
		}
	}
}

// origin is what the start of the VM that has taken the machine goes on from.
func (sb *standby) origin() origin {
	return origin{
		Origin: model.Origin{Kind: model.FromTemplate, Of: sb.j.key, Name: sb.j.spec.Image}, template: true, standby: sb, made: sb.v.Spec,
	}
}

// takeStandby makes the machine the VM's own and lets it go on.
func (s *start) takeStandby(ctx context.Context, sb *standby) error {
	if err := s.m.update(ctx, s.e, func(v *model.VM) {
		v.Runtime.State, v.Runtime.PID, v.Runtime.Accel = sb.live.inst.State(), sb.live.inst.PID(), s.info.Accel
		v.DiskImage = v.Spec.ImageID
	}); err != nil {
		return err
	}
	s.live = sb.live
	s.e.setMachine(sb.live)
	if p, ok := sb.live.inst.(vmm.Pauser); ok {
		return p.Resume(ctx)
	}
	return nil
}
