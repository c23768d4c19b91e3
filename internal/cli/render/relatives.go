package render

import (
	"fmt"
	"strings"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/model"
	"banger/internal/vmm"
)

// Relatives holds what a VM's details mention besides the VM itself.
type Relatives struct {
	Snapshots []model.Snapshot
	Advice    []api.Recommendation // of the driver that runs the VM
	Init      string               // of the VM's image
}

// vcpuAdvice returns what the driver recommends for the number of the VM's virtual CPUs, or "" if
// no recommendation concerns the VM.
func (r Relatives) vcpuAdvice(vm model.VM, style ui.Style) string {
	for _, advice := range r.Advice {
		if advice.Kind != string(vmm.MaxVCPUsWithInit) || r.Init == "" {
			continue
		}
		text := ui.Clean(fmt.Sprintf("at most %d for an image with an init: %s", advice.Value, advice.Reason))
		if vm.Spec.VCPUs > advice.Value {
			return style.Yellow(text)
		}
		return text
	}
	return ""
}

// snapshot returns the name of the snapshot with this id, or a short id if it has been deleted.
func (r Relatives) snapshot(id string) string {
	for _, s := range r.Snapshots {
		if s.ID == id {
			return ui.Clean(SnapshotName(s))
		}
	}
	return ui.Clean(shortID(id)) + " (deleted)"
}

// taken lists the snapshots of a VM.
func (r Relatives) taken(vm model.VM) string {
	var names []string
	for _, s := range r.Snapshots {
		if s.VMID == vm.ID {
			names = append(names, ui.Clean(SnapshotName(s)))
		}
	}
	return strings.Join(names, ", ")
}

// origin returns what a start began from.
func (r Relatives) origin(b *model.Boot) string {
	switch {
	case b == nil:
		return ""
	case b.Cold:
		return "cold boot"
	case b.Origin == nil:
		return "forked"
	}
	o := b.Origin
	switch o.Kind {
	case model.FromUniversal:
		return "forked from template " + ui.Clean(ShortHash(o.Of)) + " (any image)"
	case model.FromTemplate:
		return "forked from template " + ui.Clean(ShortHash(o.Of)) + " (" + ui.Clean(ShortRef(o.Name)) + ")"
	case model.FromFork:
		return "forked from VM " + ui.Clean(o.Name)
	case model.FromSnapshot:
		return "restored from snapshot " + r.snapshot(o.Of)
	case model.FromSuspended:
		return "resumed from disk"
	}
	return ui.Clean(string(o.Kind) + " " + o.Of)
}

// parent returns what a VM was made from.
func (r Relatives) parent(p *model.Parent) string {
	switch {
	case p == nil:
		return ""
	case p.Snapshot != "":
		return "snapshot " + r.snapshot(p.Snapshot) + " of VM " + ui.Clean(p.Name)
	}
	return "VM " + named(p.Name, shortID(p.VM))
}
