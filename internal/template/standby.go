package template

import (
	"context"
	"errors"
	"sync"

	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/pace"
)

// standby holds the machines that wait for a start. Its methods are safe for concurrent use.
type standby struct {
	*builder
	mu    sync.Mutex // a leaf
	ready map[string][]*machine.Standby
}

// fill brings as many machines to standby as a template shall have.
func (s *standby) fill(ctx context.Context, j job) error {
	for ctx.Err() == nil {
		if s.count(j.key) >= s.cfg.Standby {
			s.queue.succeeded(j.name())
			return nil
		}
		waiting, err := s.standBy(ctx, j)
		if fault.KindOf(err) == fault.NotFound { // the template was removed meanwhile
			return nil
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.ready[j.key] = append(s.ready[j.key], waiting)
		s.mu.Unlock()
	}
	return ctx.Err()
}

// standBy brings one machine to standby: restored, warmed up, frozen and halted.
func (s *standby) standBy(ctx context.Context, j job) (_ *machine.Standby, err error) {
	ctx, cancel := pace.Context(ctx, buildTimeout, "machine on standby")
	defer cancel()
	from, err := s.shelf.open(ctx, j.key)
	if err != nil {
		return nil, err
	}
	from.Image = j.spec.Image
	l, err := s.bringUp(ctx, j, from)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.tearDown(ctx, l))
		}
	}()
	if _, err := s.settle(ctx, l, false); err != nil {
		return nil, err
	}
	if l.Machine.CanPause() == nil {
		if err := l.Machine.Pause(ctx); err != nil {
			return nil, err
		}
	}
	return &machine.Standby{Subject: l.Subject, Machine: l.Machine, Key: j.key, Fingerprint: j.fingerprint}, nil
}

// take returns a machine on standby for a VM with this spec; nil if there is none.
func (s *standby) take(ctx context.Context, spec model.Spec) *machine.Standby {
	if s.cfg.Standby == 0 {
		return nil
	}
	fingerprint, err := s.fingerprint(ctx, spec)
	if err != nil {
		return nil // the start will report what is wrong
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range fitting(fingerprint, spec, s.cfg.Usual) {
		if waiting := s.ready[key]; len(waiting) > 0 {
			s.ready[key] = waiting[1:]
			return waiting[0]
		}
	}
	return nil
}

// release ends a machine that was taken and is not used, and removes its files.
func (s *standby) release(ctx context.Context, m *machine.Standby) error {
	return s.shelf.host.TearDown(context.WithoutCancel(ctx), machine.Remains{Subject: m.Subject, Machine: m.Machine})
}

// end ends the machines on standby from a template; from all templates for "".
func (s *standby) end(ctx context.Context, key string) {
	s.mu.Lock()
	var all []*machine.Standby
	for k, list := range s.ready {
		if key == "" || k == key {
			all = append(all, list...)
			delete(s.ready, k)
		}
	}
	s.mu.Unlock()
	for _, m := range all {
		if err := s.release(ctx, m); err != nil {
			s.shelf.log.ErrorContext(ctx, "ending a machine on standby", "vm", m.Subject.ID, "error", err)
		}
	}
}

// count returns how many machines wait, restored from a template.
func (s *standby) count(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ready[key])
}
