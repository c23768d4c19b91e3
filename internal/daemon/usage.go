package daemon

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	"banger/internal/disk"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/vmdir"
)

// unusedInitramfs is the time since the last use after which a prune removes an archive that boots
// the agent. Older builds of the agent have archives of their own.
const unusedInitramfs = 24 * time.Hour

// usage returns what the home uses on the host's file systems. Rows of one kind are adjacent.
func (d *daemon) usage(ctx context.Context) (model.DiskUsage, error) {
	rows, err := d.manager.Usage(ctx)
	if err != nil {
		return model.DiskUsage{}, err
	}
	usedImages, usedKernels := d.inUse(ctx)
	images, err := d.images.Usage(usedImages)
	if err != nil {
		return model.DiskUsage{}, err
	}
	kernels, err := d.kernels.usage(usedKernels, d.Layout.Kernels())
	if err != nil {
		return model.DiskUsage{}, err
	}
	lost, err := lostUsage(d.Layout)
	if err != nil {
		return model.DiskUsage{}, err
	}
	rows = slices.Concat(rows, images, kernels, lost)
	var sorted model.DiskUsage
	for _, kind := range usageKinds() {
		for _, row := range rows {
			if row.Kind == kind {
				sorted.Rows = append(sorted.Rows, row)
				sorted.Total.Add(row)
			}
		}
	}
	return sorted, nil
}

// usageKinds are the kinds of rows in the order in which they are shown.
func usageKinds() []model.UsageKind {
	return []model.UsageKind{
		model.UsageVM, model.UsageImage, model.UsageKernel, model.UsageSnapshot, model.UsageTemplate, model.UsageCache,
		model.UsageLost,
	}
}

// lostUsage has a row for each directory of a VM without a record. No prune removes one.
func lostUsage(layout paths.Layout) ([]model.UsageRow, error) {
	lost, err := vmdir.Lost(layout)
	if err != nil {
		return nil, err
	}
	var rows []model.UsageRow
	for _, l := range lost {
		space, err := disk.SpaceBehind(l.Dir)
		if err != nil {
			return nil, err
		}
		rows = append(rows, space.Row(model.UsageLost, filepath.Base(l.Dir)))
	}
	return rows, nil
}

// inUse returns functions that find the users of an image or kernel. If a snapshot is damaged, the
// users are unknown; then everything counts as used, as a prune would treat it.
func (d *daemon) inUse(ctx context.Context) (images, kernels func(id string) []string) {
	err := d.manager.References(func(i, k map[string][]string) error {
		images = func(id string) []string { return i[id] }
		kernels = func(id string) []string { return k[id] }
		return nil
	})
	if err != nil {
		d.log.WarnContext(ctx, "finding out what could be pruned", "error", err)
		all := func(string) []string { return []string{"?"} }
		return all, all
	}
	return images, kernels
}

// usage has a row for each kernel and one for the archives that boot the agent.
func (s kernels) usage(inUse func(id string) []string, dir string) ([]model.UsageRow, error) {
	all, err := s.List()
	if err != nil {
		return nil, err
	}
	var rows []model.UsageRow
	for _, k := range all {
		space, err := disk.SpaceOf(filepath.Join(dir, k.ID))
		if err != nil {
			return nil, err
		}
		row := space.Row(model.UsageKernel, label(k.Names, k.ID))
		if len(inUse(k.ID)) == 0 {
			row.Reclaimable = row.Own
		}
		rows = append(rows, row)
	}
	archives, err := s.archiveUsage()
	return append(rows, archives), err
}

func (s kernels) archiveUsage() (model.UsageRow, error) {
	space, err := disk.SpaceOf(s.initramfs.Dir())
	row := space.Row(model.UsageCache, "initramfs archives")
	if err != nil {
		return row, err
	}
	unused, err := s.initramfs.Unused(unusedInitramfs)
	for _, path := range unused {
		old, err := disk.SpaceOf(path)
		if err != nil {
			return row, err
		}
		row.Reclaimable += old.Own
	}
	return row, err
}
