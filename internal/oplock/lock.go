// Package oplock orders the operations on one thing, and knows when it is used and when all is
// quiet.
//
// A Lock is a leaf for its own mutex: nothing else is locked under it.
package oplock

import (
	"context"
	"slices"
	"sync"

	"banger/internal/fault"
)

// Lock lets one operation at a time work on one VM, in the order of their requests. It is no mutex
// because an operation lasts seconds: waiting honours a context, and a delete calls off the starts
// that are before it.
type Lock struct {
	mu      sync.Mutex
	holder  *op
	waiting []*op
	closed  bool // the VM is deleted, or is going to be: nobody gets the lock any more
}

// op is one operation that holds or waits for an Lock.
type op struct {
	name   string
	cancel context.CancelCauseFunc // calls the operation off
	ready  chan struct{}           // closed when it holds the lock, or when the lock was closed
}

var errGone = fault.New(fault.NotFound, "the VM was deleted meanwhile")

// Acquire waits for the lock. The returned context is ctx's child and also ends when the operation
// is called off. The returned function releases the lock and must be called once.
func (l *Lock) Acquire(ctx context.Context, name string) (context.Context, func(), error) {
	ctx, cancel := context.WithCancelCause(ctx)
	me := &op{name: name, cancel: cancel, ready: make(chan struct{})}
	l.mu.Lock()
	switch {
	case l.closed:
		l.mu.Unlock()
		cancel(nil)
		return nil, nil, errGone
	case l.holder == nil:
		l.holder = me
		close(me.ready)
	default:
		l.waiting = append(l.waiting, me)
	}
	l.mu.Unlock()

	select {
	case <-me.ready:
	case <-ctx.Done():
	}
	// the lock may have been handed over at this moment; release copes with both
	if ctx.Err() != nil {
		err := context.Cause(ctx)
		l.release(me)
		return nil, nil, err
	}
	if !l.holds(me) {
		cancel(nil)
		return nil, nil, errGone
	}
	return ctx, func() { l.release(me) }, nil
}

// CallOff ends the context of each operation that holds or waits for the lock, if may allows it.
func (l *Lock) CallOff(may func(operation string) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := slices.Clone(l.waiting)
	if l.holder != nil {
		all = append(all, l.holder)
	}
	for _, o := range all {
		if may(o.name) {
			o.cancel(fault.New(fault.Canceled, "called off: the VM is being deleted"))
		}
	}
}

// Close hands the lock to nobody any more; those who wait get errGone.
func (l *Lock) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, w := range l.waiting {
		close(w.ready)
	}
	l.waiting = nil
}

// Busy reports whether an operation holds the lock.
func (l *Lock) Busy() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.holder != nil
}

// Waiting returns how many operations wait for the lock.
func (l *Lock) Waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting)
}

func (l *Lock) holds(o *op) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.holder == o
}

// release gives the lock to the next in line, or takes o out of the line.
func (l *Lock) release(o *op) {
	defer o.cancel(nil)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holder != o {
		for i, w := range l.waiting {
			if w == o {
				l.waiting = append(l.waiting[:i:i], l.waiting[i+1:]...)
				return
			}
		}
		return
	}
	l.holder = nil
	if len(l.waiting) > 0 {
		l.holder, l.waiting = l.waiting[0], l.waiting[1:]
		close(l.holder.ready)
	}
}
