package server

import (
	"context"
	"sync"

	"banger/internal/fault"
	"banger/internal/model"
)

// Sessions are the operations that may last longer than their request. As an observer of the
// manager, Sessions learns which VMs have ended. It is made before the manager and the server,
// which both use it.
type Sessions struct {
	mu    sync.Mutex
	open  map[*session]struct{}
	ended error // why new sessions are refused; nil if they are not
	idle  chan struct{}
}

type session struct {
	vm     string // id; "" before the VM exists
	cancel context.CancelCauseFunc
}

// NewSessions returns an empty set.
func NewSessions() *Sessions { return &Sessions{open: map[*session]struct{}{}} }

// begin enters a session. Its context ends with the parent, the VM, the daemon, or with done.
func (s *Sessions) begin(parent context.Context, vm string) (ctx context.Context, done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return nil, nil, s.ended
	}
	ctx, cancel := context.WithCancelCause(parent)
	one := &session{vm: vm, cancel: cancel}
	s.open[one] = struct{}{}
	return ctx, func() { s.leave(one) }, nil
}

func (s *Sessions) leave(one *session) {
	one.cancel(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, one)
	if len(s.open) == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// Name and RecordsChanged make Sessions an observer of the manager.
func (s *Sessions) Name() string { return "sessions" }

// RecordsChanged ends the sessions of VMs that are no longer running.
func (s *Sessions) RecordsChanged(_ context.Context, vms []model.VM) error {
	states := make(map[string]model.State, len(vms))
	for _, v := range vms {
		states[v.ID] = v.State
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for one := range s.open {
		if one.vm == "" || states[one.vm].Live() {
			continue
		}
		one.cancel(fault.New(fault.Unavailable, "the VM has ended"))
	}
	return nil
}

// end ends all sessions and refuses new ones.
func (s *Sessions) end(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.ended = why
	}
	for one := range s.open {
		one.cancel(why)
	}
}

// wait returns when no session is left, or when ctx ends.
func (s *Sessions) wait(ctx context.Context) error {
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
