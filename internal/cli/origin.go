package cli

import (
	"context"
	"strings"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/model"
)

// relatives is what there is besides a VM that it may have to do with.
type relatives struct{ snapshots []model.Snapshot }

// relativesOf asks for what a VM's origin can be told with. Without an answer ids have to do.
func relativesOf(ctx context.Context, client *api.Client) relatives {
	snaps, err := client.Snapshots(ctx)
	if err != nil {
		return relatives{}
	}
	return relatives{snaps}
}

// snapshot names a snapshot by its id, or by the beginning of the id when it is gone.
func (r relatives) snapshot(id string) string {
	for _, s := range r.snapshots {
		if s.ID == id {
			return ui.Clean(snapshotName(s))
		}
	}
	return ui.Clean(shortID(id)) + " (deleted)"
}

// taken lists the snapshots that were taken of a VM.
func (r relatives) taken(vm model.VM) string {
	var names []string
	for _, s := range r.snapshots {
		if s.VMID == vm.ID {
			names = append(names, ui.Clean(snapshotName(s)))
		}
	}
	return strings.Join(names, ", ")
}

// origin says what a start went on from.
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

// parent says what a VM was made from.
func (r relatives) parent(p *model.Parent) string {
	switch {
	case p == nil:
		return ""
	case p.Snapshot != "":
		return "snapshot " + r.snapshot(p.Snapshot) + " of VM " + ui.Clean(p.Name)
	}
	return "VM " + named(p.Name, shortID(p.VM))
}
