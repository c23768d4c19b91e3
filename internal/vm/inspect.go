package vm

import (
	"cmp"
	"context"
	"slices"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/snapshot"
	"banger/internal/vm/room"
	"banger/internal/vmdir"
	"banger/internal/vmm"
)

// guestStatsTimeout bounds how long statistics wait for a guest that may be busy or hung.
const guestStatsTimeout = 3 * time.Second

// Stats returns what the VM costs the host, and what its guest reports if it answers.
func (m *Manager) Stats(ctx context.Context, ref string) (model.Stats, error) {
	e, err := m.records.find(ref)
	if err != nil {
		return model.Stats{}, err
	}
	v, l := e.state()
	stats := model.Stats{ID: v.ID, Name: v.Spec.Name, State: v.State, Disk: m.diskUse(v)}
	if l == nil {
		return stats, nil
	}
	if s, ok := l.Instance.(vmm.Statter); ok {
		if cost, err := s.Stats(); err == nil {
			stats.CPU, stats.Memory = cost.CPU, cost.Memory
		}
	}
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
	images, kernels := map[string][]string{}, map[string][]string{}
	use := func(in map[string][]string, id, user string) {
		if id != "" && !slices.Contains(in[id], user) {
			in[id] = append(in[id], user)
		}
	}
	for _, e := range m.records.entries() {
		if next := e.wanted(); next != nil {
			use(images, next.ImageID, next.Name)
			use(kernels, next.KernelID, next.Name)
		}
	}
	for _, v := range m.records.list((*entry).record) {
		use(images, v.Spec.ImageID, v.Spec.Name)
		use(kernels, v.Spec.KernelID, v.Spec.Name)
		machine, err := m.machineSpec(v)
		if err != nil {
			return err
		}
		if v.Runtime != nil || v.State == model.Suspended { // its next start may use others
			use(images, v.DiskImage, v.Spec.Name)
		}
		if machine != nil {
			use(images, machine.ImageID, v.Spec.Name)
			use(kernels, machine.KernelID, v.Spec.Name)
		}
	}
	lost, err := vmdir.Lost(m.Layout) // these VMs may be brought back
	if err != nil {
		return err
	}
	for _, l := range lost {
		if c, err := vmdir.Read(l.Files(), l.ID); err == nil {
			user := model.LostUser(c.VM.Spec.Name, l.Dir)
			use(images, c.VM.Spec.ImageID, user)
			use(kernels, c.VM.Spec.KernelID, user)
		}
	}
	if err := m.library.References(func(name string, spec model.Spec) {
		use(images, spec.ImageID, model.SnapshotUser(name))
		use(kernels, spec.KernelID, model.SnapshotUser(name))
	}); err != nil {
		return err
	}
	return f(images, kernels)
}

// machineSpec is what a VM's machine was started as, whether it runs or is suspended; nil without
// one.
func (c *core) machineSpec(v model.VM) (*model.Spec, error) {
	if v.Runtime != nil {
		return cmp.Or(v.Runtime.Spec, &v.Spec), nil
	}
	if v.State != model.Suspended {
		return nil, nil
	}
	meta, err := snapshot.ReadMeta(c.dirsOf(v).Suspended()) // to read the memory takes long
	if kind := fault.KindOf(err); kind == fault.NotFound || kind == fault.Invalid {
		return nil, nil // it will never be resumed
	}
	if err != nil {
		return nil, err
	}
	return &meta.Spec, nil
}
