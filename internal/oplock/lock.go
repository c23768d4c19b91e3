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
// because an operation lasts seconds: waiting honours a context, and who ends the VM calls off what
// is before it.
type Lock struct {
	mu      sync.Mutex
	holder  *Turn
	waiting []*Turn
	closed  bool // the VM is deleted, or is going to be: nobody gets the lock any more
}

// Turn is one operation that holds or waits for a Lock.
type Turn struct {
	lock  *Lock
	name  string
	ready chan struct{} // closed when it holds the lock, or when the lock was closed

	ctx     context.Context // of the operation
	cancel  context.CancelCauseFunc
	off     context.Context // ends only when the operation is called off, or is over
	callOff context.CancelCauseFunc
}

var errGone = fault.New(fault.NotFound, "the VM was deleted meanwhile")

// Enqueue joins the line. Release leaves it.
func (l *Lock) Enqueue(ctx context.Context, name string) *Turn {
	t := &Turn{lock: l, name: name, ready: make(chan struct{})}
	t.off, t.callOff = context.WithCancelCause(context.WithoutCancel(ctx))
	t.ctx, t.cancel = context.WithCancelCause(context.WithValue(ctx, offKey{}, t.off))
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		close(t.ready)
	case l.holder == nil:
		l.holder = t
		close(t.ready)
	default:
		l.waiting = append(l.waiting, t)
	}
	return t
}

// Wait waits for the lock. After an error, the turn is over.
func (t *Turn) Wait() error {
	select {
	case <-t.ready:
	case <-t.ctx.Done():
	}
	// the lock may have been handed over at this moment; Release copes with both
	if t.ctx.Err() != nil {
		err := context.Cause(t.ctx)
		t.Release()
		return err
	}
	if !t.lock.holds(t) {
		t.Release()
		return errGone
	}
	return nil
}

// Context is the operation's. It is a child of the context of Enqueue, and also ends when the
// operation is called off.
func (t *Turn) Context() context.Context { return t.ctx }

// CallOff ends the operation's context. See Outlive for what that means to an operation that
// continues without its caller.
func (t *Turn) CallOff(why error) {
	t.callOff(why)
	t.cancel(why)
}

// Acquire joins the line and waits for the lock. The returned function releases the lock and must
// be called once.
func (l *Lock) Acquire(ctx context.Context, name string) (context.Context, func(), error) {
	t := l.Enqueue(ctx, name)
	if err := t.Wait(); err != nil {
		return nil, nil, err
	}
	return t.ctx, t.Release, nil
}

// CallOff calls off each operation that holds or waits for the lock, if may allows it. It returns
// how many it has called off.
func (l *Lock) CallOff(why error, may func(operation string) bool) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := slices.Clone(l.waiting)
	if l.holder != nil {
		all = append(all, l.holder)
	}
	for _, t := range all {
		if may(t.name) {
			t.CallOff(why)
			n++
		}
	}
	return n
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
func (l *Lock) Busy() bool { return l.Holder() != "" }

// Holder returns the name of the operation that holds the lock; "" if none does.
func (l *Lock) Holder() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holder == nil {
		return ""
	}
	return l.holder.name
}

// Waiting returns how many operations wait for the lock.
func (l *Lock) Waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting)
}

func (l *Lock) holds(t *Turn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.holder == t
}

// Release gives the lock to the next in line, or leaves the line.
func (t *Turn) Release() {
	defer t.CallOff(nil)
	l := t.lock
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holder != t {
		l.waiting = slices.DeleteFunc(l.waiting, func(w *Turn) bool { return w == t })
		return
	}
	l.holder = nil
	if len(l.waiting) > 0 {
		l.holder, l.waiting = l.waiting[0], l.waiting[1:]
		close(l.holder.ready)
	}
}
