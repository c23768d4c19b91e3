package cli

import (
	"context"
	"strings"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/model"
)

// relatives holds the items that a VM may be related to.
type relatives struct{ snapshots []model.Snapshot }

// relativesOf asks for the items that name a VM's origin. If there is no answer, ids are shown
// instead.
func relativesOf(ctx context.Context, client *api.Client) relatives {
	snaps, err := client.Snapshots(ctx)
	if err != nil {
		return relatives{}
	}
	return relatives{snaps}
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
