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
	u := usage{core: m.core, unfinished: model.UsageRow{Kind: model.UsageCache, Name: "unfinished"}}
	if err := u.addVMs(); err != nil {
		return nil, err
	}
	if err := u.addSnapshots(ctx); err != nil {
		return nil, err
	}
	if err := u.addTemplates(ctx); err != nil {
		return nil, err
	}
	return append(u.rows, u.unfinished), nil
}

// usage is rows in the making.
type usage struct {
	*core
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

func (u *usage) addVMs() error {
	known := map[string]bool{}
	for _, v := range u.records.list() {
		known[v.ID] = true
		row, err := u.add(model.UsageVM, v.Spec.Name, u.Layout.VM(v.ID).Dir)
		if err != nil {
			return err
		}
		if v.State == model.Stopped || v.State == model.Failed {
			row.Reclaimable = row.Own
		}
	}
	return u.rest(u.Layout.VMs(), known)
}

func (u *usage) addSnapshots(ctx context.Context) error {
	snaps, err := u.library.List(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, s := range snaps {
		known[s.ID] = true
		if _, err := u.add(model.UsageSnapshot, cmp.Or(s.Name, s.ID), u.library.Dir(s.ID)); err != nil {
			return err
		}
	}
	return u.rest(u.Layout.Snapshots(), known)
}

func (u *usage) addTemplates(ctx context.Context) error {
	templates, err := u.templates.Stored(ctx)
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
	return u.rest(u.Layout.Templates(), known)
}
