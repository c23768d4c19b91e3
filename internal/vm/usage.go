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

// Usage tells what VMs, snapshots and templates take up on the host: a row for each, and one for what is in the making or was left by a crash, which
// the next start-up removes. A VM's row has the memory that its suspension keeps.
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

// add measures a folder. It returns the row, to be completed.
func (u *usage) add(kind model.UsageKind, name, dir string) (*model.UsageRow, error) {
	space, err := disk.SpaceOf(dir)
	if err != nil {
		return nil, err
	}
	u.rows = append(u.rows, space.Row(kind, name))
	return &u.rows[len(u.rows)-1], nil
}

// rest measures what is in a folder besides what is known.
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

func (m *Manager) vmUsage(u *usage) error {
	known := map[string]bool{}
	for _, v := range m.List() {
		known[v.ID] = true
		row, err := u.add(model.UsageVM, v.Spec.Name, m.Layout.VM(v.ID).Dir)
		if err != nil {
			return err
		}
		if v.State == model.Stopped || v.State == model.Failed {
			row.Reclaimable = row.Own
		}
	}
	return u.rest(m.Layout.VMs(), known)
}

func (m *Manager) snapshotUsage(ctx context.Context, u *usage) error {
	snaps, err := m.Snapshots(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, s := range snaps {
		known[s.ID] = true
		if _, err := u.add(model.UsageSnapshot, cmp.Or(s.Name, s.ID), filepath.Join(m.Layout.Snapshots(), s.ID)); err != nil {
			return err
		}
	}
	return u.rest(m.Layout.Snapshots(), known)
}

func (m *Manager) templateUsage(ctx context.Context, u *usage) error {
	templates, err := m.templates.stored(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, t := range templates {
		known[t.Key] = true
		row, err := u.add(model.UsageTemplate, t.Key, m.templates.dir(t.Key))
		if err != nil {
			return err
		}
		if !m.templates.current(t.Template) {
			row.Reclaimable = row.Own
		}
	}
	return u.rest(m.Layout.Templates(), known)
}
