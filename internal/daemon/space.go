package daemon

import (
	"context"
	"time"

	"banger/internal/machine"
	"banger/internal/paths"
	"banger/internal/space"
	"banger/internal/vm"
	"banger/internal/vmm"
)

// newGuard makes the guard of the file systems that have the records and the disks of VMs.
// Templates and machines on standby give way first.
func (d *daemon) newGuard() *space.Guard {
	return space.New(space.Config{
		Dir: d.Layout.State, Also: []string{d.Layout.VMs(), d.Layout.Snapshots()}, Reserve: d.cfg.DiskReserve, Log: d.component("space"),
		GiveWay: func(ctx context.Context) { d.manager.Templates().GiveWay(ctx) },
	})
}

// guardSpace begins to guard the file system, until close.
func (d *daemon) guardSpace(ctx context.Context) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.space.Run(ctx, guarded{vm.Guarded{Manager: d.manager}, d.Layout})
	}()
	d.endSpace = func() { cancel(); <-done }
}

// releaseTimeout bounds the wait for the guest of a VM that was held.
const releaseTimeout = 5 * time.Second

// guarded adapts the manager to the guard.
type guarded struct {
	vm.Guarded
	layout paths.Layout
}

type thawer = func(context.Context) error

// Halted reports whether and why the machine of a VM is halted.
func (g guarded) Halted(ctx context.Context, id string) (vmm.Halt, error) {
	m, err := g.Machine(id)
	if err != nil {
		return vmm.NotHalted, err
	}
	r, ok := m.Instance.(vmm.HaltReporter)
	if !ok {
		return vmm.NotHalted, nil
	}
	halt, err := r.Halted(ctx)
	if err == nil && halt == vmm.Halted { // by an operation, perhaps
		err = g.With(ctx, id, func(*machine.Machine, thawer) error { halt, err = r.Halted(ctx); return err })
	}
	return halt, err
}

// Hold halts the machine of a VM. Its guest does not notice, and its record stays.
func (g guarded) Hold(ctx context.Context, id string) error {
	m, err := g.Machine(id)
	if err != nil {
		return err
	}
	return m.Pause(ctx)
}

// Freeze stops the VMM of a VM that is held.
func (g guarded) Freeze(_ context.Context, id string) error {
	m, err := g.Machine(id)
	if err != nil {
		return err
	}
	if f, ok := m.Instance.(vmm.Freezer); ok {
		return f.Freeze()
	}
	return nil
}

// Release lets a machine that was held continue, and sets the guest's clock. A guest that is stuck
// again at once does not answer.
func (g guarded) Release(ctx context.Context, id string) error {
	return g.With(ctx, id, func(m *machine.Machine, thaw thawer) error {
		if err := m.Resume(ctx); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
		defer cancel()
		if err := thaw(ctx); err != nil {
			g.Log.WarnContext(ctx, "setting the clock of a VM that was held", "vm", id, "error", err)
		}
		return nil
	})
}

// Writers lists the VMs whose guests may run, with their disks.
func (g guarded) Writers() []space.VM {
	var list []space.VM
	for _, v := range g.Guarded.Writers() {
		guarded := space.VM{ID: v.ID, Name: v.Spec.Name, State: v.State, Memory: v.Spec.Memory}
		for _, path := range machine.Disks(g.layout.VM(v.ID)) {
			guarded.Disks = append(guarded.Disks, path)
		}
		list = append(list, guarded)
	}
	return list
}
