package image

import (
	"context"
	"fmt"
	"sync"

	"banger/internal/model"
	"banger/internal/step"
)

// flights let callers that want the same thing at the same time share the work. The work continues
// while one caller waits for it. Each caller gets the events since it came.
type flights struct {
	mu     sync.Mutex
	flying map[string]*flight
}

type flightWork func(context.Context, step.Reporter) (model.Image, error)

type flight struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when image and err are set
	image  model.Image
	err    error

	mu      sync.Mutex // locked after flights.mu
	waiting map[int]step.Reporter
	next    int
}

// do runs work, or joins a run with the same key.
func (f *flights) do(ctx context.Context, key string, report step.Reporter, work flightWork) (model.Image, error) {
	f.mu.Lock()
	fl := f.flying[key]
	if fl == nil {
		fl = f.start(ctx, key, work)
	}
	me := fl.join(report)
	f.mu.Unlock()

	select {
	case <-fl.done:
		return fl.image, fl.err
	case <-ctx.Done():
	}
	if f.leave(key, fl, me) {
		fl.cancel()
		<-fl.done // nothing is left when the only caller returns
	}
	return model.Image{}, ctx.Err()
}

func (fl *flight) join(report step.Reporter) int {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.next++
	fl.waiting[fl.next] = report
	return fl.next
}

// leave stops waiting and reports whether nobody waits any more. Then a later caller starts a new
// run.
func (f *flights) leave(key string, fl *flight, me int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl.mu.Lock()
	defer fl.mu.Unlock()
	delete(fl.waiting, me)
	if len(fl.waiting) > 0 {
		return false
	}
	if f.flying[key] == fl {
		delete(f.flying, key)
	}
	return true
}

// notify passes an event to all waiting callers. It calls no reporter of a caller that has left.
func (fl *flight) notify(e step.Event) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	for _, r := range fl.waiting {
		r.Report(e)
	}
}

// start begins a run. The caller holds f.mu.
func (f *flights) start(ctx context.Context, key string, work flightWork) *flight {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	fl := &flight{cancel: cancel, done: make(chan struct{}), waiting: map[int]step.Reporter{}}
	if f.flying == nil {
		f.flying = map[string]*flight{}
	}
	f.flying[key] = fl
	go func() {
		defer cancel()
		fl.image, fl.err = guarded(ctx, fl.notify, work)
		f.mu.Lock()
		if f.flying[key] == fl {
			delete(f.flying, key)
		}
		f.mu.Unlock()
		close(fl.done)
	}()
	return fl
}

// guarded turns a panic into an error: the input is hostile, and the daemon serves every VM.
func guarded(ctx context.Context, report step.Reporter, work flightWork) (img model.Image, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return work(ctx, report)
}
