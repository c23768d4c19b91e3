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
		kind: model.FromSnapshot, Disks: machine.SavedDisks(snap), foreign: !s.Sealed,
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

// SpecFor is the spec of a VM that becomes what the capture keeps. If a stranger may have written
// the capture, the VM keeps its network and what its owner gives its commands.
func (c *Capture) SpecFor(owner model.Spec) model.Spec {
	if c.foreign {
		return c.Meta.Spec.ForeignFor(owner)
	}
	return c.Meta.Spec.For(owner)
}

// CheckNet fails if the saved machine cannot run with the network that SpecFor gives it.
func (c *Capture) CheckNet(owner model.Spec) error {
	if net := c.Meta.Spec.Net; c.foreign && c.HasMemory() && net != owner.Net {
		return fault.New(fault.Invalid, "the snapshot's machine has network %q, and VM %s has network %q", net, owner.Name, owner.Net).
			WithHint("Restore with --disks-only, or set the VM's network first: `banger vm set --net=%s %s`.", net, owner.Name)
	}
	return nil
}
