package vm

import (
	"context"
	"time"

	"banger/internal/disk"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/vm/record"
	"banger/internal/vm/room"
	"banger/internal/vm/uses"
)

// guestStatsTimeout bounds how long statistics wait for a guest that may be busy or hung.
const guestStatsTimeout = 3 * time.Second

// Stats returns what the VM costs the host, and what its guest reports if it answers.
func (m *Manager) Stats(ctx context.Context, ref string) (model.Stats, error) {
	e, err := m.records.Find(ref)
	if err != nil {
		return model.Stats{}, err
	}
	v, l := e.State()
	stats := model.Stats{ID: v.ID, Name: v.Spec.Name, State: v.State, Disk: machine.DiskUse(m.dirsOf(v))}
	if l == nil {
		return stats, nil
	}
	cost := l.Cost()
	stats.CPU, stats.Memory = cost.CPU, cost.Memory
	if v.State == model.Paused || room.CheckNotHeld(v, m.Room) != nil {
		return stats, nil
	}
	ctx, cancel := context.WithTimeout(ctx, guestStatsTimeout)
	defer cancel()
	if guest, err := l.Agent.Stats(ctx); err == nil {
		stats.Guest = &guest
	}
	return stats, nil
}

// Usage returns what VMs, snapshots and templates take up on the host: a row for each, and one for
// what is being made or was left by a crash, which the next start-up removes. A suspended VM's row
// includes its memory.
func (m *Manager) Usage(ctx context.Context) ([]model.UsageRow, error) {
	var u disk.Tally
	known := map[string]bool{}
	for _, v := range m.List() {
		known[v.ID] = true
		row, err := u.Add(model.UsageVM, v.Spec.Name, m.dirsOf(v).Dir)
		if err != nil {
			return nil, err
		}
		if v.State == model.Stopped || v.State == model.Failed {
			row.Reclaimable = row.Own
		}
	}
	if err := u.AddRest(m.Layout.VMs(), known); err != nil {
		return nil, err
	}
	if err := m.library.Measure(ctx, &u); err != nil {
		return nil, err
	}
	if err := m.templates.Measure(ctx, &u); err != nil {
		return nil, err
	}
	return u.Rows(), nil
}

// References calls f with the images and kernels that VMs and snapshots use (id to names of users).
// No VM that uses another one appears while f runs, so f may delete what nobody uses.
func (m *Manager) References(f func(images, kernels map[string][]string) error) error {
	m.refs.Lock()
	defer m.refs.Unlock()
	u := uses.New()
	for _, e := range m.records.Entries() {
		if next := e.Wanted(); next != nil {
			u.Spec(next.Name, *next)
		}
	}
	for _, v := range m.records.List((*record.Entry).Stored) {
		if err := u.VM(v, m.dirsOf(v)); err != nil {
			return err
		}
	}
	if err := u.Lost(m.Layout); err != nil {
		return err
	}
	if err := m.library.References(func(name string, spec model.Spec) { u.Spec(model.SnapshotUser(name), spec) }); err != nil {
		return err
	}
	return f(u.Images, u.Kernels)
}
