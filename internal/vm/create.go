package vm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/vm/parts"
	"banger/internal/vmdir"
)

// Create makes a stopped VM. If the image or the kernel is missing, it is made first, which is
// reported. The VM's disks are made at its first start.
func (m *Manager) Create(ctx context.Context, req model.Create, report step.Reporter) (model.VM, error) {
	return m.create(ctx, req, opCreate, report, func(_ context.Context, op *operation) (model.VM, error) {
		return op.record(), nil
	})
}

// Launch makes a VM and starts it, as one operation: a prune never finds it stopped in between.
// made is called when the VM has a record. If ctx ends before the VM runs, the VM is deleted. A VM
// whose start fails stays, so that its error can be looked into, and is returned with the error.
func (m *Manager) Launch(ctx context.Context, req model.Create, made func(model.VM), report step.Reporter) (model.VM, error) {
	caller := ctx
	return m.create(ctx, req, opStart, report, func(ctx context.Context, op *operation) (model.VM, error) {
		made(op.record())
		v, err := op.bringUp(ctx, model.Start{Cold: req.Cold}, report)
		// a delete that called it off removes it itself
		if err != nil && caller.Err() != nil && v.State == model.Stopped {
			err = errors.Join(err, op.delete(caller))
			m.observe(caller)
		}
		return v, err
	})
}

// newOperation is what follows when a new VM has its record.
type newOperation func(ctx context.Context, op *operation) (model.VM, error)

// create makes a stopped VM and calls then, as one operation.
func (m *Manager) create(ctx context.Context, req model.Create, k kind, report step.Reporter, then newOperation) (model.VM, error) {
	m.deleteUnwanted(ctx, req.Name) // one may have the name
	spec := m.Defaults.Fill(req)
	if err := parts.CheckUnresolved(spec); err != nil {
		return model.VM{}, err
	}
	if req.Name != "" {
		if err := m.records.CheckNameFree(req.Name); err != nil {
			return model.VM{}, err
		}
	}
	const attempts = 3 // each lost to a prune that came between making and naming
	for range attempts {
		resolved := spec
		if err := m.parts().Resolve(ctx, &resolved, report); err != nil {
			return model.VM{}, err
		}
		v := model.VM{ID: model.NewID(), Spec: resolved, State: model.Creating, Created: time.Now().UTC()}
		n := newVM{vm: v, name: req.Name, kind: k}
		if k == opStart && !req.Cold {
			n.standby = m.templates.Take(ctx, resolved)
			if m.Config.Templates.Standby > 0 {
				m.Meter.Standby(n.standby != nil)
			}
		}
		made, err := m.enter(ctx, n, func(ctx context.Context, op *operation) (model.VM, error) {
			m.observe(ctx)
			return then(ctx, op)
		})
		if gone := (partsGone{}); !errors.As(err, &gone) {
			return made, err
		}
	}
	return model.VM{}, fault.New(fault.Unavailable, "image %s or kernel %s is deleted as often as it is made", spec.Image, spec.Kernel)
}

// newVM is a VM that is about to get its record.
type newVM struct {
	vm      model.VM
	name    string            // "": a random one
	kind    kind              // of the operation that makes it
	disks   map[string]string // that it begins with copies of; nil for none
	standby *machine.Standby  // whose machine it takes over; nil for none
}

// partsGone is the error of a new VM whose image or kernel does not exist.
type partsGone struct{ error }

func (e partsGone) Unwrap() error { return e.error }

// enter gives a new VM its record and its directory, and calls then, as one operation: nobody else
// sees the VM before its operation lock is held. If the VM cannot be made, nothing of it is left.
func (c *core) enter(ctx context.Context, n newVM, then newOperation) (model.VM, error) {
	if n.standby != nil {
		n.vm.ID, n.vm.Facts = n.standby.Subject.ID, n.standby.Subject.Facts
	}
	e, entered := c.records.Draft(n.vm), false
	v, err := operateOn(ctx, c, e, n.kind, func(ctx context.Context, op *operation) (model.VM, error) {
		err := c.pinned(func() error {
			if err := c.parts().Check(n.vm.Spec); err != nil {
				return partsGone{err}
			}
			if err := c.records.Add(e, n.name); err != nil {
				return err
			}
			entered = true
			return op.update(ctx, func(*model.VM) {})
		})
		if !entered {
			return model.VM{}, err
		}
		if n.standby != nil { // from here on whatever removes the VM ends the machine
			op.standby = n.standby
			e.SetMachine(n.standby.Machine)
		}
		if err == nil {
			err = op.furnish(ctx, n.disks)
		}
		if err != nil {
			return model.VM{}, errors.Join(err, op.remove(context.WithoutCancel(ctx)))
		}
		return then(ctx, op)
	})
	if !entered && n.standby != nil { // also if ctx had ended before the operation began
		if err := c.templates.Release(ctx, n.standby); err != nil {
			c.Log.ErrorContext(ctx, "ending a machine on standby that no VM has taken", "vm", e.Record().ID, "error", err)
		}
	}
	return v, err
}

// furnish makes the directory of a VM that has its record, with copies of disks in it, and calls
// the hooks of a new VM.
func (op *operation) furnish(ctx context.Context, disks map[string]string) error {
	if err := disk.Mkdir(op.Layout.VMs(), op.dirs().Dir); err != nil {
		return fmt.Errorf("making the VM's directory: %w", err)
	}
	files, copies := op.dirs(), len(disks) > 0
	if copies {
		if err := vmdir.MarkUnused(files); err != nil {
			return err
		}
	}
	if err := machine.PlaceDisks(ctx, files, disks); err != nil {
		return err
	}
	if err := op.host.Created(ctx, op.subject(), op.storeFact); err != nil {
		return err
	}
	if copies && op.record().Runtime == nil { // otherwise they are of no use before its start
		if err := vmdir.MarkUsed(files); err != nil {
			return err
		}
	}
	return op.update(ctx, func(v *model.VM) { v.State = model.Stopped })
}

// BuildTemplate makes the templates that a VM of this kind would be restored from, unless they
// exist.
func (m *Manager) BuildTemplate(ctx context.Context, req model.Create, report step.Reporter) ([]model.Template, error) {
	if err := m.templates.CheckOn(); err != nil {
		return nil, err
	}
	spec := m.Defaults.Fill(req)
	spec.Name = "template"
	if err := parts.CheckUnresolved(spec); err != nil {
		return nil, err
	}
	if err := m.parts().Resolve(ctx, &spec, report); err != nil {
		return nil, err
	}
	return m.templates.Build(ctx, spec, report)
}
