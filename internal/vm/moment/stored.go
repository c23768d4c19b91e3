package moment

import (
	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/snapshot"
)

// Stored opens a stored snapshot. The library has checked its description, and the caller has
// verified its files. disksOnly leaves its memory out.
func Stored(s model.Snapshot, snap *snapshot.Snapshot, disksOnly bool) (_ *Capture, err error) {
	c := &Capture{
		Parent: model.Parent{VM: s.VMID, Name: s.VM, Snapshot: s.ID}, Meta: snap.Meta(),
		kind: model.FromSnapshot, Disks: machine.SavedDisks(snap), foreign: !s.Sealed,
	}
	if s.Kind == model.SnapshotFull && !disksOnly {
		if c.memory, err = snap.OpenMemory(); err != nil {
			return nil, err
		}
		c.openDevice = snap.OpenDevice
	}
	return c, nil
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
