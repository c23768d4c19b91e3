package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/oplock"
	"banger/internal/snapshot/library"
	"banger/internal/step"
	"banger/internal/vm/explain"
	"banger/internal/vm/moment"
)

// CreateSnapshot keeps a VM at this moment under a name: with its memory if it runs, is paused or
// suspended, otherwise its disks alone. The VM continues as before. "" is a random name.
func (m *Manager) CreateSnapshot(ctx context.Context, ref, name string, report step.Reporter) (model.Snapshot, error) {
	if name != "" {
		if err := model.CheckName(name); err != nil {
			return model.Snapshot{}, fault.New(fault.Invalid, "%w", err)
		}
	}
	return perform(ctx, m.core, ref, opSnapshot, report, func(ctx context.Context, op *operation) (model.Snapshot, error) {
		// before the VM has to stand still for it
		if _, err := m.library.FreeName(name); err != nil {
			return model.Snapshot{}, err
		}
		ctx = step.WithWaits(ctx, report)
		op.sync(ctx)
		draft, err := m.library.Draft()
		if err != nil {
			return model.Snapshot{}, err
		}
		end := report.Track("capture", op.name())
		c, err := moment.Of(ctx, op.captured(), draft, nil)
		end(err)
		if err != nil {
			return model.Snapshot{}, err
		}
		end = report.Track("store", "")
		v := op.record()
		stored, err := m.library.Store(ctx, c.Draft, c.Meta, library.Label{Name: name, VM: v.Spec.Name, VMID: v.ID, Pause: c.Pause})
		end(err)
		return stored, errors.Join(err, c.Close())
	})
}

// RestoreSnapshot makes VMs from a snapshot, or restores one VM in place.
func (m *Manager) RestoreSnapshot(ctx context.Context, ref string, req model.Restore, report step.Reporter) (model.Forked, error) {
	if req.Into != "" && (req.Count > 1 || req.Name != "" || req.Remove != "") {
		return model.Forked{}, fault.New(fault.Invalid, "a restore into VM %q takes neither count nor name nor removal policy", req.Into)
	}
	// now, rather than after all of the snapshot was read; it decides nothing
	if err := m.checkInto(ctx, req); err != nil {
		return model.Forked{}, err
	}
	c, notices, err := m.captureOf(ctx, ref, req, report)
	if err != nil {
		return model.Forked{}, err
	}
	defer c.Close()
	if req.Into != "" {
		v, err := m.restoreInto(ctx, req.Into, c, req.Force, report)
		return model.Forked{Children: []model.Child{{Name: v.Spec.Name, VM: &v}}}, err
	}
	names, err := req.Names(c.Meta.Spec)
	if err != nil {
		return model.Forked{}, fault.New(fault.Invalid, "%w", err)
	}
	m.deleteUnwanted(ctx, names...) // one may have a name that is asked for
	forked := m.makeChildren(ctx, c, names, req.Fork, report)
	forked.Notices = notices
	m.observe(ctx)
	return forked, nil
}

func (c *core) checkInto(ctx context.Context, req model.Restore) error {
	if req.Into == "" {
		return nil
	}
	e, err := c.records.Find(req.Into)
	if err != nil {
		return err
	}
	if err := recoverShown(ctx, c, e); err != nil {
		return err
	}
	if v := e.Record(); !v.State.Between() {
		return explain.MayReplace(v, req.Force)
	}
	return nil
}

// captureOf opens a stored snapshot to make VMs of it. All of it is checked first.
func (c *core) captureOf(ctx context.Context, ref string, req model.Restore, report step.Reporter) (*moment.Capture, []model.Notice, error) {
	s, snap, err := c.library.OpenFor(ctx, ref, req)
	if err != nil {
		return nil, nil, err
	}
	memory, notices, err := library.MayUseMemory(s, req)
	if err != nil {
		return nil, nil, err
	}
	end := report.Track("verify", s.Name)
	err = library.Verify(ctx, s, snap, req)
	end(err)
	if err != nil {
		return nil, nil, err
	}
	from, err := moment.Stored(s, snap, !memory)
	return from, notices, err
}

// restoreInto gives a VM the disks of a snapshot, and its memory if it has one. What the VM was
// before is lost, but not before everything that can be missing is there.
func (m *Manager) restoreInto(ctx context.Context, ref string, c *moment.Capture, force bool, report step.Reporter) (model.VM, error) {
	return perform(ctx, m.core, ref, opStart, report, func(ctx context.Context, op *operation) (model.VM, error) {
		if err := explain.MayReplace(op.record(), force); err != nil {
			return op.record(), err
		}
		if err := (restoring{op}).checkRestorable(ctx, c); err != nil {
			return op.record(), err
		}
		c.Alone = true
		source, err := c.Source() // while nothing is lost
		if err != nil {
			return op.record(), err
		}
		defer m.observe(ctx)
		if err := (restoring{op}).replaceDisks(ctx, c, report); err != nil {
			if source != nil {
				err = errors.Join(err, source.Close())
			}
			return op.record(), fmt.Errorf("restoring VM %s: %w", op.name(), err)
		}
		if source == nil {
			return op.record(), nil
		}
		ctx, cancel := oplock.Outlive(ctx, 0)
		defer cancel()
		err = op.start(ctx, source, c.Meta.Driver, report)
		return op.record(), err
	})
}

// restoring is an operation that makes its VM what a capture keeps.
type restoring struct{ *operation }

// replaceDisks copies disks and memory beside the VM's own, and then makes the VM what the capture
// keeps.
func (op restoring) replaceDisks(ctx context.Context, c *moment.Capture, report step.Reporter) error {
	// where start-up finds what a crash leaves, and on the file system that the disks will be on
	stage := filepath.Join(op.dirs().Dir, disk.TempPrefix+model.NewID())
	defer os.RemoveAll(stage)
	end := report.Track("disks", "")
	err := c.Stage(ctx, stage, c.SpecFor(op.record().Spec))
	end(err)
	if err != nil {
		return err
	}
	// from here on it is done, however ctx ends
	return op.replace(context.WithoutCancel(ctx), c, stage, report)
}

// checkRestorable fails if the VM cannot become what a capture keeps.
func (op restoring) checkRestorable(ctx context.Context, c *moment.Capture) error {
	if err := errors.Join(machine.CheckDir(op.dirs(), op.name()), op.parts().Check(c.Meta.Spec), c.CheckNet(op.record().Spec)); err != nil {
		return err
	}
	if err := op.Room.CheckAt(op.dirs().Dir); err != nil {
		return err
	}
	// its record would say that the machine is to be ended, and a later daemon would do that
	if err := machine.CheckEnd(ctx, op.host, op.remains()); err != nil || !c.HasMemory() {
		return err
	}
	subject := op.subject()
	subject.Spec = c.SpecFor(subject.Spec)
	return op.host.CheckShape(ctx, c.Meta.Driver, subject, c.Meta.Fingerprint)
}

// replace makes the VM what a capture keeps, whose disks are in stage: all of it or nothing,
// wherever it is cut off. The turning point is the record. Before, the VM continues as it was.
// After, completeRestore ends its machine and places the disks, now or at the next operation.
func (op restoring) replace(ctx context.Context, c *moment.Capture, stage string, report step.Reporter) error {
	files := op.dirs()
	err := machine.RemoveAll(files.Restored()) // of a restore that did not get as far as its record
	if err == nil {
		err = os.Rename(stage, files.Restored())
	}
	if err == nil {
		err = disk.SyncDir(files.Dir)
	}
	if err != nil {
		return err
	}
	before := op.record()
	err = op.update(ctx, func(v *model.VM) {
		parent := c.Parent
		v.Spec, v.DiskImage, v.Parent = c.SpecFor(v.Spec), c.Meta.Spec.ImageID, &parent
		v.Restoring, v.Disks = c.Parts(), machine.MeasureDisks(c.Disks)
	})
	if err != nil {
		// A failed write may have had its effect: the record is put right before its disks are
		// removed.
		if undo := op.update(ctx, func(v *model.VM) { *v = before }); undo != nil {
			return errors.Join(err, undo)
		}
		return errors.Join(err, machine.RemoveAll(files.Restored()))
	}
	if err := repairs(op).completeRestore(ctx, report); err != nil {
		return fmt.Errorf("the VM is the snapshot's from now on, and its next operation completes that: %w", err)
	}
	return nil
}
