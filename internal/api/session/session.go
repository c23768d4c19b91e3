// Package session keeps the operations that may last longer than their request, such as a command,
// and ends each one with its VM or the daemon. It also knows why: the client that ends a VM says
// what it does, so that the other clients of that VM can be told.
package session

import (
	"cmp"
	"context"
	"sync"

	"banger/internal/fault"
	"banger/internal/model"
)

// Set holds the sessions of a daemon. As an observer of the manager, it learns which VMs have
// ended. It is made before the manager and the server, which both use it.
type Set struct {
	mu    sync.Mutex
	open  map[*session]struct{}
	ended error // why new sessions are refused; nil if they are not
	idle  chan struct{}
}

type session struct {
	vm     string // id; "" before the VM exists
	why    string // what a client has done that may end the session: "killed"; "" if nothing
	cancel context.CancelCauseFunc
}

// NewSet returns an empty set.
func NewSet() *Set { return &Set{open: map[*session]struct{}{}} }

// Begin enters a session. Its context ends with the parent, the VM, the daemon, or with done.
func (s *Set) Begin(parent context.Context, vm string) (ctx context.Context, done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return nil, nil, s.ended
	}
	ctx, cancel := context.WithCancelCause(parent)
	one := &session{vm: vm, cancel: cancel}
	s.open[one] = struct{}{}
	return context.WithValue(ctx, sessionKey{}, one), func() { s.leave(one) }, nil
}

type sessionKey struct{}

// Belongs ties the session of ctx to a VM that exists by now. The VM's end ends the session.
func (s *Set) Belongs(ctx context.Context, vm string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one, ok := ctx.Value(sessionKey{}).(*session); ok {
		one.vm = vm
	}
}

// Expect notes that a client has a VM "killed" or "stopped". If its sessions end, that is why. The
// result is called when the operation is over. If it has failed, the note is taken back.
func (s *Set) Expect(vm, why string) (over func(failed *error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := map[*session]string{}
	for one := range s.open {
		if one.vm == vm {
			before[one], one.why = one.why, why
		}
	}
	return func(failed *error) {
		if *failed == nil {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for one, was := range before {
			if one.why == why { // and not what another client has noted since
				one.why = was
			}
		}
	}
}

// Expected returns what Expect noted for the session of ctx.
func (s *Set) Expected(ctx context.Context) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one, ok := ctx.Value(sessionKey{}).(*session); ok {
		return one.why
	}
	return ""
}

func (s *Set) leave(one *session) {
	one.cancel(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, one)
	if len(s.open) == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// Name and RecordsChanged make a Set an observer of the manager.
func (s *Set) Name() string { return "sessions" }

// RecordsChanged ends the sessions of VMs that are no longer running.
func (s *Set) RecordsChanged(_ context.Context, vms []model.VM) error {
	records := make(map[string]model.VM, len(vms))
	for _, v := range vms {
		records[v.ID] = v
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for one := range s.open {
		if v := records[one.vm]; one.vm != "" && !v.State.Live() {
			one.cancel(Ended(v, one.why))
		}
	}
	return nil
}

// Ended says what has ended a VM. The zero VM is one that was deleted.
func Ended(v model.VM, why string) error {
	name := v.Spec.Name
	last := v.LastError
	switch {
	case v.ID == "":
		return fault.New(fault.Unavailable, "the VM was %s meanwhile", cmp.Or(why, "deleted"))
	case why != "":
		return fault.New(fault.Unavailable, "VM %s was %s meanwhile", name, why)
	case last != nil:
		return fault.New(fault.Unavailable, "VM %s has ended meanwhile: %s", name, last.Msg).
			WithHint("%s", cmp.Or(last.Hint, "`banger vm logs "+name+"` may show why."))
	}
	return fault.New(fault.Unavailable, "VM %s has ended meanwhile: it is %s", name, v.State.Phrase())
}

// End ends all sessions and refuses new ones.
func (s *Set) End(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.ended = why
	}
	for one := range s.open {
		one.cancel(why)
	}
}

// Wait returns when no session is left, or when ctx ends.
func (s *Set) Wait(ctx context.Context) error {
	s.mu.Lock()
	if len(s.open) == 0 {
		s.mu.Unlock()
		return nil
	}
	if s.idle == nil {
		s.idle = make(chan struct{})
	}
	idle := s.idle
	s.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
