package image

import (
	"context"
	"fmt"
	"sync"

	"banger/internal/model"
	"banger/internal/step"
)

// flights let callers that ask for the same thing at the same time share one piece of work. The work goes on as long as one of
// them is interested, whoever asked first; each gets the events from the moment when it came.
type flights struct {
	mu     sync.Mutex
	flying map[string]*flight
}

type flightWork func(context.Context, step.Reporter) (model.Image, error)

type flight struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when image and err are there
	image  model.Image
	err    error

	mu      sync.Mutex // taken after flights.mu
	waiting map[int]step.Reporter
	next    int
}

// do runs work, or joins the run of the same key that is under way.
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
		<-fl.done // so that nothing is left when the only caller returns
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

// leave gives up waiting and tells whether nobody waits any more; then who comes now starts anew.
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

// tell passes an event to everyone who waits. No reporter is called after its caller has left.
func (fl *flight) tell(e step.Event) {
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
		fl.image, fl.err = guarded(ctx, fl.tell, work)
		f.mu.Lock()
		if f.flying[key] == fl {
			delete(f.flying, key)
		}
		f.mu.Unlock()
		close(fl.done)
	}()
	return fl
}

// guarded turns a panic into an error: what is read here comes from strangers, and the daemon holds every VM.
func guarded(ctx context.Context, report step.Reporter, work flightWork) (img model.Image, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return work(ctx, report)
}
