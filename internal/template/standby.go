package template

import (
	"context"
	"errors"

	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
)

// fill brings as many machines to standby as a template shall have.
func (p *Pool) fill(ctx context.Context, j job) error {
	for ctx.Err() == nil {
		p.mu.Lock()
		enough := len(p.ready[j.key]) >= p.Standby
		p.mu.Unlock()
		if enough {
			p.succeeded(j.name())
			return nil
		}
		waiting, err := p.standBy(ctx, j)
		if fault.KindOf(err) == fault.NotFound { // the template was removed meanwhile
			return nil
		}
		if err != nil {
			return err
		}
		p.mu.Lock()
		p.ready[j.key] = append(p.ready[j.key], waiting)
		p.mu.Unlock()
	}
	return ctx.Err()
}

// standBy brings one machine to standby: restored, warmed up, frozen and halted.
func (p *Pool) standBy(ctx context.Context, j job) (_ *machine.Standby, err error) {
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	from, err := p.open(ctx, j.key)
	if err != nil {
		return nil, err
	}
	from.Image = j.spec.Image
	l, err := p.bringUp(ctx, j, from)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.tearDown(ctx, l))
		}
	}()
	if err := p.settle(ctx, l); err != nil {
		return nil, err
	}
	if l.Machine.CanPause() == nil {
		if err := l.Machine.Pause(ctx); err != nil {
			return nil, err
		}
	}
	return &machine.Standby{Subject: l.Subject, Machine: l.Machine, Key: j.key, Fingerprint: j.fingerprint}, nil
}

// Take returns a machine on standby for a VM with this spec; nil if there is none.
func (p *Pool) Take(ctx context.Context, spec model.Spec) *machine.Standby {
	if p.Off || p.Standby == 0 {
		return nil
	}
	fingerprint, err := p.fingerprint(ctx, spec)
	if err != nil {
		return nil // the start will report what is wrong
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, key := range p.fitting(fingerprint, spec) {
		if waiting := p.ready[key]; len(waiting) > 0 {
			p.ready[key] = waiting[1:]
			return waiting[0]
		}
	}
	return nil
}

// Release ends a machine that was taken and is not used, and removes its files.
func (p *Pool) Release(ctx context.Context, s *machine.Standby) error {
	return p.host.TearDown(context.WithoutCancel(ctx), machine.Remains{Subject: s.Subject, Machine: s.Machine})
}

// endStandby ends the machines on standby from a template; from all templates for "".
func (p *Pool) endStandby(ctx context.Context, key string) {
	p.mu.Lock()
	var all []*machine.Standby
	for k, list := range p.ready {
		if key == "" || k == key {
			all = append(all, list...)
			delete(p.ready, k)
		}
	}
	p.mu.Unlock()
	for _, s := range all {
		if err := p.Release(ctx, s); err != nil {
			p.log.ErrorContext(ctx, "ending a machine on standby", "vm", s.Subject.ID, "error", err)
		}
	}
}
