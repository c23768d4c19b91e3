package cli

import (
	"context"
	"fmt"
	"strings"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/model"
	"banger/internal/vmm"
)

// relatives holds what a VM's details mention besides the VM itself.
type relatives struct {
	snapshots []model.Snapshot
	advice    []api.Recommendation // of the driver that runs the VM
	init      string               // of the VM's image
}

// relativesOf asks for the relatives of a VM. An answer that is missing leaves its field empty; ids
// are then shown instead of names.
func relativesOf(ctx context.Context, client *api.Client, vm model.VM) relatives {
	var r relatives
	if snaps, err := client.Snapshots().List(ctx); err == nil {
		r.snapshots = snaps
	}
	status, err := client.Daemon().Status(ctx)
	if err != nil || len(status.Recommendations) == 0 || vm.Runtime != nil && vm.Runtime.Driver != status.Driver {
		return r
	}
	if image, err := client.Images().Get(ctx, vm.Spec.ImageID); err == nil {
		r.advice, r.init = status.Recommendations, image.Init
	}
	return r
}

// vcpuAdvice returns what the driver recommends for the number of the VM's virtual CPUs, or "" if
// no recommendation concerns the VM.
func (r relatives) vcpuAdvice(vm model.VM, style ui.Style) string {
	for _, advice := range r.advice {
		if advice.Kind != string(vmm.MaxVCPUsWithInit) || r.init == "" {
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
func (r relatives) snapshot(id string) string {
	for _, s := range r.snapshots {
		if s.ID == id {
			return ui.Clean(snapshotName(s))
		}
	}
	return ui.Clean(shortID(id)) + " (deleted)"
}

// taken lists the snapshots of a VM.
func (r relatives) taken(vm model.VM) string {
	var names []string
	for _, s := range r.snapshots {
		if s.VMID == vm.ID {
			names = append(names, ui.Clean(snapshotName(s)))
		}
	}
	return strings.Join(names, ", ")
}

// origin returns what a start began from.
func (r relatives) origin(b *model.Boot) string {
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
		return "forked from template " + ui.Clean(shortHash(o.Of)) + " (any image)"
	case model.FromTemplate:
		return "forked from template " + ui.Clean(shortHash(o.Of)) + " (" + ui.Clean(shortRef(o.Name)) + ")"
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
func (r relatives) parent(p *model.Parent) string {
	switch {
	case p == nil:
		return ""
	case p.Snapshot != "":
		return "snapshot " + r.snapshot(p.Snapshot) + " of VM " + ui.Clean(p.Name)
	}
	return "VM " + named(p.Name, shortID(p.VM))
}
