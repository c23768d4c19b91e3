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
	"banger/internal/oplock"
	"banger/internal/pace"
	"banger/internal/vm/explain"
)

// Set changes a VM's spec and returns what has taken effect and what will at the next start. Either
// the whole change is taken or nothing of it.
func (m *Manager) Set(ctx context.Context, ref string, change model.Change) (model.Changed, error) {
	return perform(ctx, m.core, ref, opSet, nil, func(ctx context.Context, op *operation) (model.Changed, error) {
		old := op.record()
		if err := explain.MaySet(old); err != nil {
			return model.Changed{}, err
		}
		next := old
		// Pinned until the new image and kernel are wanted. Applying may wait for a guest, and
		// nobody else shall.
		err := m.pinned(func() (err error) {
			if next.Spec, err = m.parts().Changed(ctx, old.Spec, change); err == nil {
				op.e.Want(&next.Spec)
			}
			return err
		})
		if err != nil {
			return model.Changed{}, err
		}
		defer op.e.Want(nil)
		fields := model.ChangedFields(old.Spec, next.Spec)
		applied, err := changing{op}.applyChange(ctx, old, next)
		if err != nil {
			return model.Changed{}, fmt.Errorf("changing VM %s: %w", old.Spec.Name, err)
		}
		if op.e.Machine() == nil {
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
	return perform(ctx, m.core, ref, opRename, nil, func(ctx context.Context, op *operation) (model.VM, error) {
		v := op.record()
		if v.Spec.Name == name {
			return v, nil
		}
		if err := m.records.CheckNameFree(name); err != nil {
			return v, err
		}
		// Two renames to one name that both find it free are told apart by the store, whose names
		// are unique.
		if err := op.update(ctx, func(v *model.VM) {
			v.Spec.Name = name
			if op.e.Machine() != nil || v.State == model.Suspended {
				v.AddPending("name")
			}
		}); err != nil {
			return v, err
		}
		m.observe(ctx)
		return op.record(), nil
	})
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
	defer oplock.AwaitGuest(ctx)()
	req := machine.ChangeRequest{Old: old, New: next, Machine: op.e.Machine()}
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
