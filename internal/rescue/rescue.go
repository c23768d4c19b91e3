package rescue

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"banger/internal/disk"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/store"
	"banger/internal/vmdir"
)

// tempName begins the names of the directories in which a database is made or looked at.
const tempName = store.InspectTemp

// Run brings back the records that can be found, or with dryRun says what it would do. It may be
// interrupted at any moment and run again.
func Run(ctx context.Context, layout paths.Layout, dryRun bool) (model.Rescue, error) {
	p, err := makePlan(ctx, layout)
	if err != nil {
		return model.Rescue{}, err
	}
	p.result.DryRun = dryRun
	if p.result.VMs == nil {
		p.result.VMs = []model.RescuedVM{}
	}
	if !dryRun {
		err = p.carryOut(ctx, time.Now())
	}
	return p.result, err
}

// carryOut moves directories first: a directory without a record is safe, because it holds a copy
// or is among the lost ones.
func (p *plan) carryOut(ctx context.Context, now time.Time) error {
	if err := p.moveDirs(); err != nil {
		return err
	}
	if !p.fresh {
		return p.addRecords(ctx, p.layout.Database(), store.Options{Backups: p.layout.Backups(), Reserve: p.layout.Reserve()})
	}
	return p.replaceDatabase(ctx, now)
}

func (p *plan) moveDirs() error {
	if err := removeTemp(p.layout.State); err != nil {
		return err
	}
	if err := os.MkdirAll(p.layout.VMs(), 0o700); err != nil {
		return describe("recovering", err)
	}
	for id, dir := range p.back {
		if err := os.Rename(dir, p.layout.VM(id).Dir); err != nil {
			return describe("bringing a lost directory back", err)
		}
	}
	for _, id := range p.lose {
		to, err := vmdir.Lose(p.layout, id)
		if err != nil {
			return err
		}
		for i := range p.result.VMs {
			if p.result.VMs[i].ID == id {
				p.result.VMs[i].Dir = to
			}
		}
	}
	return describe("recovering", disk.SyncDir(p.layout.VMs()))
}

func (p *plan) addRecords(ctx context.Context, path string, opts store.Options) error {
	s, err := store.OpenWith(ctx, path, opts)
	if err != nil {
		return err
	}
	if p.home != "" {
		err = s.SetMeta(ctx, store.HomeKey, p.home)
	}
	if p.fresh && p.starts > 0 {
		err = errors.Join(err, s.SetMeta(ctx, store.StartsKey, strconv.FormatUint(p.starts, 10)))
	}
	if err != nil {
		return errors.Join(err, s.Close())
	}
	for _, v := range p.records {
		if err := s.PutVM(ctx, v); err != nil {
			return errors.Join(err, s.Close())
		}
	}
	return s.Close() // which leaves one file
}

// replaceDatabase makes a complete new database beside the old one, moves the old one aside, and
// renames the new one.
func (p *plan) replaceDatabase(ctx context.Context, now time.Time) (err error) {
	temp, err := os.MkdirTemp(p.layout.State, tempName)
	if err != nil {
		return describe("making a new database", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	made := filepath.Join(temp, "banger.db")
	if err := p.addRecords(ctx, made, store.Options{}); err != nil {
		return err
	}
	if err := p.moveAside(now); err != nil {
		return err
	}
	if err := os.Rename(made, p.layout.Database()); err != nil {
		return describe("placing the new database", err)
	}
	return describe("placing the new database", disk.SyncDir(p.layout.State))
}

// moveAside moves the old database and what SQLite keeps beside it. The file itself comes first: if
// a crash comes between, it must not be read without the rest.
func (p *plan) moveAside(now time.Time) error {
	to := filepath.Join(p.layout.Damaged(), stamp(now))
	for _, file := range store.Files(p.layout.Database()) {
		if !disk.MayExist(file) {
			continue
		}
		if err := os.MkdirAll(to, 0o700); err != nil {
			return describe("moving the old database aside", err)
		}
		if err := os.Rename(file, filepath.Join(to, filepath.Base(file))); err != nil {
			return describe("moving the old database aside", err)
		}
		p.result.Aside = to
	}
	return nil
}

// removeTemp removes unfinished databases of interrupted recoveries.
func removeTemp(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return describe("recovering", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempName) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return describe("recovering", err)
}
