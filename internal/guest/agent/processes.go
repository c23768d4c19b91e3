package agent

import (
	"context"
	"log/slog"
	"sync"

	"banger/internal/guest/agent/freezer"
	"banger/internal/guest/agent/proc"
)

// processes are all processes of the machine but the agent.
type processes struct {
	log   *slog.Logger
	table *proc.Table

	// spawn keeps processes from being started at moments when that would do harm. It is locked
	// after life.change.
	spawn       sync.Mutex
	freezer     halter // set with the first identity
	haltedCount int    // how many processes Freeze halted; guarded by life.change

	mu     sync.Mutex
	halted bool // all of them are halted
}

// halter halts all processes but the agent: see package freezer.
type halter interface {
	// Freeze returns how many processes it halted. After an error, none is halted.
	Freeze(context.Context) (int, error)
	Thaw() error
}

// halt halts all processes, or none. It returns how many it halted. The caller holds life.change.
func (p *processes) halt(ctx context.Context) (int, error) {
	n, err := p.freeze(ctx)
	if err != nil {
		return 0, err
	}
	p.haltedCount = n
	p.setHalted(true)
	return n, nil
}

func (p *processes) freeze(ctx context.Context) (int, error) {
	// A process on its way to execve(2) would be frozen together with the one that waits for it.
	p.spawn.Lock()
	defer p.spawn.Unlock()
	p.table.Halt()
	n, err := p.freezer.Freeze(ctx)
	if err != nil {
		p.table.Resume(false)
	}
	return n, err
}

// resume lets all processes continue. fork reports whether they do so in another machine.
func (p *processes) resume(fork bool) error {
	if err := p.freezer.Thaw(); err != nil {
		return err
	}
	p.setHalted(false)
	p.table.Resume(fork)
	return nil
}

func (p *processes) setHalted(halted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.halted = halted
}

func (p *processes) isHalted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.halted
}

// chooseFreezer chooses the way to halt the commands that start from now on.
func (p *processes) chooseFreezer() {
	groups, err := freezer.Open()
	if err != nil {
		p.log.Warn("no control groups", "error", err)
		p.freezer = &freezer.Signals{}
		return
	}
	p.useGroups(groups)
}

func (p *processes) useGroups(groups *freezer.Groups) {
	p.table.UseGroups(groups)
	p.freezer = groups
}

// groups returns the control groups, or nil if there are none.
func (p *processes) groups() *freezer.Groups {
	groups, _ := p.freezer.(*freezer.Groups)
	return groups
}
