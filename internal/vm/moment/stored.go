package moment

import (
	"fmt"

	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/snapshot"
	"banger/internal/vmm"
)

// Stored opens a stored snapshot, whose files the caller has verified. disksOnly leaves its memory
// out.
func Stored(s model.Snapshot, snap *snapshot.Snapshot, disksOnly bool) (_ *Capture, err error) {
	c := &Capture{
		Parent: model.Parent{VM: s.VMID, Name: s.VM, Snapshot: s.ID}, Meta: snap.Meta(),
		kind: model.FromSnapshot, Disks: machine.SavedDisks(snap),
	}
	if err := c.checkComplete(s); err != nil {
		return nil, err
	}
	if s.Kind == model.SnapshotFull && !disksOnly {
		if c.memory, err = snap.OpenMemory(); err != nil {
			return nil, err
		}
		c.openDevice = snap.OpenDevice
	}
	return c, nil
}

// checkComplete fails if a stored snapshot lacks what its VM had. A missing work disk of a snapshot
// without memory is made at the next start.
func (c *Capture) checkComplete(s model.Snapshot) error {
	spec := c.Meta.Spec
	spec.Name = "unnamed" // the VM's own name does not matter
	if err := spec.Validate(); err != nil {
		return fault.New(fault.Invalid, "snapshot %s: %w", s.Name, err)
	}
	hasWork, wantsWork, full := c.Disks[machine.WorkDisk] != "", spec.WorkDiskSize != 0, s.Kind == model.SnapshotFull
	if c.Disks[machine.SystemDisk] == "" || hasWork && !wantsWork || !hasWork && wantsWork && full {
		return fault.New(fault.Invalid, "snapshot %s does not have the disks that its VM had", s.Name)
	}
	if _, err := vmm.DecodeMemoryLayout(c.Meta.Layout); full && err != nil {
		return fmt.Errorf("snapshot %s: %w", s.Name, err)
	}
	if full && c.Meta.Fingerprint == "" {
		return fault.New(fault.Invalid, "snapshot %s does not say what machine its memory is of", s.Name)
	}
	return nil
}
