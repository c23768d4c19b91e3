package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"banger/internal/disk"
	"banger/internal/model"
)

// Usage returns what VMs, snapshots and templates take up on the host: a row for each, and one for
// what is being made or was left by a crash, which the next start-up removes. A suspended VM's row
// includes its memory.
func (m *Manager) Usage(ctx context.Context) ([]model.UsageRow, error) {
	u := usage{unfinished: model.UsageRow{Kind: model.UsageCache, Name: "unfinished"}}
	if err := m.vmUsage(&u); err != nil {
		return nil, err
	}
	if err := m.snapshotUsage(ctx, &u); err != nil {
		return nil, err
	}
	if err := m.templateUsage(ctx, &u); err != nil {
		return nil, err
	}
	return append(u.rows, u.unfinished), nil
}

// usage is rows in the making.
type usage struct {
	rows       []model.UsageRow
	unfinished model.UsageRow
}

// add measures a directory. It returns the row, to be completed.
func (u *usage) add(kind model.UsageKind, name, dir string) (*model.UsageRow, error) {
	space, err := disk.SpaceOf(dir)
	if err != nil {
		return nil, err
	}
	u.rows = append(u.rows, space.Row(kind, name))
	return &u.rows[len(u.rows)-1], nil
}

// rest measures what is in a directory besides what is known.
func (u *usage) rest(dir string, known map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("measuring: %w", err)
	}
	for _, entry := range entries {
		if known[entry.Name()] {
			continue
		}
		space, err := disk.SpaceOf(filepath.Join(dir, entry.Name()))
		if err != nil {
			return err
		}
		u.unfinished.Add(space.Row("", ""))
	}
	return nil
}

func (c *core) vmUsage(u *usage) error {
	known := map[string]bool{}
	for _, v := range c.records.list() {
		known[v.ID] = true
		row, err := u.add(model.UsageVM, v.Spec.Name, c.Layout.VM(v.ID).Dir)
		if err != nil {
			return err
		}
		if v.State == model.Stopped || v.State == model.Failed {
			row.Reclaimable = row.Own
		}
	}
	return u.rest(c.Layout.VMs(), known)
}

func (c *core) snapshotUsage(ctx context.Context, u *usage) error {
	snaps, err := c.library.List(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, s := range snaps {
		known[s.ID] = true
		if _, err := u.add(model.UsageSnapshot, cmp.Or(s.Name, s.ID), c.library.Dir(s.ID)); err != nil {
			return err
		}
	}
	return u.rest(c.Layout.Snapshots(), known)
}

func (c *core) templateUsage(ctx context.Context, u *usage) error {
	templates, err := c.templates.Stored(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, t := range templates {
		known[t.Key] = true
		row, err := u.add(model.UsageTemplate, t.Key, t.Dir)
		if err != nil {
			return err
		}
		if !t.Current {
			row.Reclaimable = row.Own
		}
	}
	return u.rest(c.Layout.Templates(), known)
}
