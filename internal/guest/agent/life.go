package agent

import (
	"context"
	"sync"
	"time"

	"banger/internal/fault"
)

// life is how far the machine has come with its identity.
type life struct {
	// change serialises changes of the machine's identity and of its halted state. It is the first
	// lock: whoever holds another one does not lock it.
	change sync.Mutex

	mu      sync.Mutex
	phase   phase
	changed chan struct{} // closed when phase changes; nil while nobody waits
	forks   int           // identities after the first
}

// phase is the progress of assume.
type phase int

const (
	unidentified phase = iota // no host has assigned an identity yet
	assuming
	assumed
	frozen  // all other processes are halted; then comes thaw, or assume as a fork
	spoiled // assume failed half-way; only a new boot helps
)

func (l *life) now() phase {
	phase, _ := l.state()
	return phase
}

// state returns the phase and how many identities came after the first.
func (l *life) state() (now phase, forks int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.phase, l.forks
}

// enter moves to another phase. The caller holds change.
func (l *life) enter(to phase) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.phase = to
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// fork counts another identity and returns how many came after the first.
func (l *life) fork() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forks++
	return l.forks
}

// thawTime is how long a request waits for a frozen machine. Saving freezes it only for a moment,
// which its users should not notice.
const thawTime = 3 * time.Second

// awaitAssumed returns when the machine has an identity and runs. If the machine becomes a fork
// meanwhile, the request is refused: it was meant for the parent.
func (l *life) awaitAssumed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, thawTime)
	defer cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	forks := l.forks
	for {
		switch {
		case l.forks != forks:
			return fault.New(fault.WrongState, "this machine was forked before the request could be served")
		case l.phase == assumed:
			return nil
		case l.phase == spoiled:
			return fault.New(fault.WrongState, "this machine could not take on its identity; only a new start helps")
		case l.phase == unidentified:
			return fault.New(fault.WrongState, "this machine has no identity yet")
		case ctx.Err() != nil && l.phase == frozen:
			return fault.New(fault.WrongState, "this machine is frozen: it is being saved or forked")
		case ctx.Err() != nil:
			return fault.New(fault.WrongState, "this machine is still taking on its identity")
		}
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		l.mu.Lock()
	}
}
