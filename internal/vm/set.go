package vm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/pace"
	"banger/internal/vm/explain"
)

// Set changes a VM's spec and returns what has taken effect and what will at the next start. Either
// the whole change is taken or nothing of it.
func (m *Manager) Set(ctx context.Context, ref string, change model.Change) (model.Changed, error) {
	return perform(ctx, m.core, ref, opSet, func(ctx context.Context, op *operation) (model.Changed, error) {
		old := op.record()
		if err := explain.MaySet(old); err != nil {
			return model.Changed{}, err
		}
		var next model.VM
		// Pinned until the new image and kernel are wanted. Applying may wait for a guest, and
		// nobody else shall.
		err := m.pinned(func() (err error) {
			if next, err = m.changed(ctx, old, change); err == nil {
				op.e.want(&next.Spec)
			}
			return err
		})
		if err != nil {
			return model.Changed{}, err
		}
		defer op.e.want(nil)
		fields := model.ChangedFields(old.Spec, next.Spec)
		applied, err := changing{op}.applyChange(ctx, old, next)
		if err != nil {
			return model.Changed{}, fmt.Errorf("changing VM %s: %w", old.Spec.Name, err)
		}
		if op.e.machine() == nil {
			applied = fields // it matters at the next start only
		}
		pending := slices.DeleteFunc(slices.Clone(fields), func(f string) bool { return slices.Contains(applied, f) })
		if err := (changing{op}).storeChange(ctx, next.Spec, applied, pending); err != nil {
			return model.Changed{}, err
		}
		m.observe(ctx)
		return model.Changed{VM: op.record(), Applied: append([]string{}, applied...), Pending: append([]string{}, pending...)}, nil
	})
}

// changed is the VM as the change would have it.
func (c *core) changed(ctx context.Context, old model.VM, change model.Change) (model.VM, error) {
	next := old
	next.Spec = old.Spec.With(change)
	if err := c.chooseVCPUs(ctx, old.Spec, &next.Spec); err != nil {
		return next, err
	}
	if err := explain.CheckChange(old.Spec, next.Spec); err != nil {
		return next, err
	}
	return next, c.resolveChange(old.Spec, &next.Spec)
}

// changing is an operation that changes its VM's spec.
type changing struct{ *operation }

func (op changing) storeChange(ctx context.Context, spec model.Spec, applied, pending []string) error {
	return op.update(ctx, func(v *model.VM) {
		v.Spec = spec
		v.AddPending(pending...)
		if v.Runtime != nil && v.Runtime.Spec != nil {
			spec := v.Runtime.Spec.WithFields(spec, applied)
			v.Runtime.Spec = &spec
		}
	})
}

// Rename gives the VM another name. Its guest learns its new host name at the next start.
func (m *Manager) Rename(ctx context.Context, ref, name string) (model.VM, error) {
	if err := model.CheckName(name); err != nil {
		return model.VM{}, fault.New(fault.Invalid, "%w", err)
	}
	m.deleteUnwanted(ctx, name) // which may have the name
	return perform(ctx, m.core, ref, opRename, func(ctx context.Context, op *operation) (model.VM, error) {
		v := op.record()
		if v.Spec.Name == name {
			return v, nil
		}
		if err := m.records.checkNameFree(name); err != nil {
			return v, err
		}
		// Two renames to one name that both find it free are told apart by the store, whose names
		// are unique.
		if err := op.update(ctx, func(v *model.VM) {
			v.Spec.Name = name
			if op.e.machine() != nil || v.State == model.Suspended {
				v.AddPending("name")
			}
		}); err != nil {
			return v, err
		}
		m.observe(ctx)
		return op.record(), nil
	})
}

// chooseVCPUs chooses the number anew, as when the VM was created, if the change leaves it open.
func (c *core) chooseVCPUs(ctx context.Context, old model.Spec, next *model.Spec) error {
	if next.VCPUs != 0 {
		return nil
	}
	find, ref := c.Images.ByID, next.ImageID
	if next.Image != old.Image {
		find, ref = c.Images.Get, next.Image
	}
	img, err := find(ref)
	if err == nil {
		next.VCPUs = c.vcpusFor(ctx, img)
	}
	return err
}

// resolveChange pins an image or kernel that the change names, without making one: a change is
// quick. What it finds may be deleted again, unless the caller is in core.pinned.
func (c *core) resolveChange(old model.Spec, next *model.Spec) error {
	if next.Image != old.Image {
		img, err := c.Images.Get(next.Image)
		if err != nil {
			return err
		}
		next.ImageID = img.ID
	}
	if next.Kernel != old.Kernel {
		k, err := c.Kernels.Get(next.Kernel)
		if err != nil {
			return err
		}
		next.KernelID = k.ID
	}
	return nil
}

// changeTimeout is the nominal time that a change waits for the guest, under the VM's operation
// lock.
const changeTimeout = time.Minute

// applyChange makes the change take effect as far as that is possible now.
func (op changing) applyChange(ctx context.Context, old, next model.VM) (applied []string, err error) {
	ctx, cancel := pace.Cause(ctx, changeTimeout, func(waited time.Duration) error {
		return fault.New(fault.Unavailable, "it was not taken up within %v", waited)
	})
	defer cancel()
	req := machine.ChangeRequest{Old: old, New: next, Machine: op.e.machine()}
	if next.Spec.DiskSize != old.Spec.DiskSize {
		d := machine.Drive{Path: op.dirs().SystemDisk(), Name: proto.SerialSystem, Size: next.Spec.DiskSize}
		done, err := machine.GrowDisk(ctx, req.Machine, d)
		if err != nil {
			return nil, errors.Join(err, context.Cause(ctx))
		}
		if done {
			applied = append(applied, "disk_size")
		}
	}
	for _, name := range hostFields {
		if slices.Contains(model.ChangedFields(old.Spec, next.Spec), name) {
			applied = append(applied, name)
		}
	}
	var errs []error
	for _, c := range op.host.Capabilities {
		if changer, ok := c.(machine.ConfigChanger); ok {
			fields, err := changer.ApplyConfigChange(ctx, req)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", c.Name(), err))
			}
			applied = append(applied, fields...)
		}
	}
	return applied, errors.Join(errs...)
}

// hostFields are those that neither machine nor guest knows: they take effect when they are
// recorded.
var hostFields = []string{"labels", "idle_suspend"}
