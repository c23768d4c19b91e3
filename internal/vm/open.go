package vm

import (
	"context"
	"errors"
	"runtime"
	"time"

	"banger/internal/machine"
	"banger/internal/pace"
	"banger/internal/snapshot/library"
	"banger/internal/template"
	"banger/internal/vm/record"
	"banger/internal/vm/room"
)

// Open reads the records, brings them and the host together again (recover.go), and returns the
// manager.
func Open(ctx context.Context, cfg Config) (*Manager, error) {
	if cfg.StopTimeout == 0 {
		cfg.StopTimeout = defaultStopTimeout
	}
	if cfg.RecoverTimeout == 0 {
		cfg.RecoverTimeout = defaultRecoverTime
	}
	if cfg.Meter == nil {
		cfg.Meter = noMeter{}
	}
	if cfg.Room == nil {
		cfg.Room = room.Unlimited{}
	}
	c := &core{Config: cfg, records: record.New(cfg.Store, cfg.Log), forking: make(chan struct{}, max(2, runtime.NumCPU()))}
	c.host = &machine.Host{
		Layout: cfg.Layout, Drivers: cfg.Drivers, Images: cfg.Images, Kernels: cfg.Kernels, NewAgent: cfg.NewAgent,
		Capabilities: cfg.Capabilities, BootTimeout: cfg.BootTimeout, Log: cfg.Log,
	}
	cfg.Templates.Usual, cfg.Templates.Quiet, cfg.Templates.Room = cfg.Defaults, c.ops.Quiet, cfg.Room.Check
	c.templates = template.New(c.host, cfg.Templates)
	c.life, c.end = context.WithCancel(context.WithoutCancel(ctx))
	c.waits, c.endWaits = context.WithCancelCause(context.WithoutCancel(ctx))
	m := &Manager{c}
	var err error
	if c.library, err = library.Open(cfg.Layout.Snapshots(), cfg.Layout.SealKey()); err != nil {
		return nil, err
	}
	c.library.Room = cfg.Room.Check
	if err := (recovery{core: c}).run(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	c.templates.Run()
	c.background(idleLook, c.suspendIdle)
	c.background(idleLook, c.lookAtDisks)
	c.background(retryAfter, func(ctx context.Context, _ time.Time) { c.retryCleanups(ctx) })
	return m, nil
}

// EndWaits makes operations give up their waits for guests soon, because the daemon is ending. What
// they have changed is recorded, and the next start-up completes it. At last the sessions with all
// agents end: a guest that takes no byte holds up who sends to it.
func (c *core) EndWaits() {
	c.wg.Go(func() {
		pace.Pass(c.life, endGrace)
		c.endWaits(errEnding)
		pace.Pass(c.life, thawGrace)
		for _, e := range c.records.Entries() {
			if l := e.Machine(); l != nil {
				_ = l.Agent.Close() // Close does it again
			}
		}
	})
}

// Close releases all VMs without ending them, ends the machines on standby, and returns when every
// goroutine of the manager has ended. Operations must be over.
func (m *Manager) Close() error {
	m.endWaits(errEnding)
	m.end()
	m.wg.Wait()
	m.templates.Close()
	var errs []error
	for _, e := range m.records.Entries() {
		errs = append(errs, e.ReleaseMachine())
	}
	return errors.Join(errs...)
}
