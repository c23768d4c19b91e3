package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/snapshot"
	"banger/internal/step"
	"banger/internal/vmm"
)

// label is what a stored snapshot says of itself besides what it is.
type label struct {
	Name  string        `json:"name"`
	VM    string        `json:"vm"`
	VMID  string        `json:"vm_id"`
	Pause time.Duration `json:"pause"`
}

// CreateSnapshot keeps a VM at this moment under a name: with its memory when it runs, is paused or suspended, else its disks alone. It goes on
// as before. "" is a random name.
func (m *Manager) CreateSnapshot(ctx context.Context, ref, name string, report step.Reporter) (model.Snapshot, error) {
	if name != "" {
		if err := model.CheckName(name); err != nil {
			return model.Snapshot{}, fault.New(fault.Invalid, "%w", err)
		}
	}
	e, ctx, release, err := m.begin(ctx, ref, "snapshot")
	if err != nil {
		return model.Snapshot{}, err
	}
	defer release()
	if _, err := m.freeSnapshotName(ctx, name); err != nil { // before the VM has to stand still for it
		return model.Snapshot{}, err
	}
	m.sync(ctx, e)
	id := model.NewID()
	end := report.Track("capture", e.record().Spec.Name)
	c, err := m.capture(ctx, e, m.snapshotDir(id), nil)
	end(err)
	if err != nil {
		return model.Snapshot{}, err
	}
	v := e.record()
	end = report.Track("store", "")
	snap, err := m.storeSnapshot(ctx, c, name, label{VM: v.Spec.Name, VMID: v.ID, Pause: c.pause})
	end(err)
	return snap, errors.Join(err, c.close())
}

// storeSnapshot gives a capture a name and makes it last. Names are told apart under a lock of their own, held until the snapshot is there.
func (m *Manager) storeSnapshot(ctx context.Context, c *capture, name string, l label) (model.Snapshot, error) {
	m.naming.Lock()
	defer m.naming.Unlock()
	var err error
	if l.Name, err = m.freeSnapshotName(ctx, name); err != nil {
		return model.Snapshot{}, err
	}
	if c.meta.Extra, err = json.Marshal(l); err != nil {
		return model.Snapshot{}, fmt.Errorf("describing the snapshot: %w", err)
	}
	c.draft.SumDisks = true
	snap, err := c.draft.Commit(ctx, c.meta)
	if err != nil {
		return model.Snapshot{}, err
	}
	return describeSnapshot(snap)
}

func (m *Manager) freeSnapshotName(ctx context.Context, name string) (string, error) {
	list, err := m.Snapshots(ctx)
	if err != nil {
		return "", err
	}
	taken := func(name string) bool {
		return slices.ContainsFunc(list, func(s model.Snapshot) bool { return s.Name == name })
	}
	if name == "" {
		return model.NewName(taken), nil
	}
	if taken(name) {
		return "", fault.New(fault.Exists, "a snapshot named %q exists already", name).
			WithHint("choose another name, or delete it with `banger snapshot delete %s`", name)
	}
	return name, nil
}

func describeSnapshot(s *snapshot.Snapshot) (model.Snapshot, error) {
	meta := s.Meta()
	var l label
	if err := json.Unmarshal(meta.Extra, &l); err != nil {
		return model.Snapshot{}, fault.New(fault.Invalid, "snapshot %s does not say whose it is: %w", s.Dir(), err)
	}
	usage, err := s.Usage()
	if err != nil {
		return model.Snapshot{}, err
	}
	found := tell(filepath.Base(s.Dir()), meta, l)
	found.Size = usage.Allocated
	return found, nil
}

// tell is what a snapshot says of itself.
func tell(id string, meta snapshot.Meta, l label) model.Snapshot {
	return model.Snapshot{
		ID: id, Name: l.Name, VM: l.VM, VMID: l.VMID, Kind: meta.Kind, Created: meta.Created,
		Image: meta.Spec.Image, Kernel: meta.Spec.Kernel, VCPUs: meta.Spec.VCPUs, Memory: meta.Spec.Memory,
		Driver: meta.Driver, Pause: l.Pause,
	}
}

// describeDamaged is what can be told of a snapshot that is no good.
func (m *Manager) describeDamaged(id string, damage error) model.Snapshot {
	s := model.Snapshot{ID: id}
	dir := m.snapshotDir(id)
	if meta, err := snapshot.ReadMeta(dir); err == nil {
		var l label
		if json.Unmarshal(meta.Extra, &l) != nil {
			l = label{} // rather than half of one
		}
		s = tell(id, meta, l)
	}
	if space, err := disk.SpaceOf(dir); err == nil {
		s.Size = space.Own + space.Shared
	}
	s.Damaged = damage.Error()
	return s
}

// Snapshots lists the stored snapshots, oldest first. One that is damaged says so; when its age cannot be told it comes first.
func (m *Manager) Snapshots(ctx context.Context) ([]model.Snapshot, error) {
	list := []model.Snapshot{}
	err := m.eachSnapshot(ctx, func(id string, snap *snapshot.Snapshot, err error) error {
		var s model.Snapshot
		if err == nil {
			s, err = describeSnapshot(snap)
		}
		if err != nil {
			s = m.describeDamaged(id, err)
		}
		list = append(list, s)
		return nil
	})
	slices.SortFunc(list, func(a, b model.Snapshot) int { return a.Created.Compare(b.Created) })
	return list, err
}

// eachSnapshot visits the stored snapshots, also those that cannot be opened. One that is deleted meanwhile is none.
func (m *Manager) eachSnapshot(ctx context.Context, visit func(id string, snap *snapshot.Snapshot, err error) error) error {
	entries, err := os.ReadDir(m.Layout.Snapshots())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("listing snapshots: %w", err)
	}
	for _, entry := range entries {
		if !model.IsID(entry.Name()) {
			continue
		}
		snap, err := snapshot.Open(ctx, m.snapshotDir(entry.Name()))
		if _, gone := os.Lstat(m.snapshotDir(entry.Name())); err != nil && errors.Is(gone, os.ErrNotExist) {
			continue
		}
		if err := visit(entry.Name(), snap, err); err != nil {
			return err
		}
	}
	return nil
}

// Snapshot returns the snapshot that ref means: a name, an id, or the beginning of one id.
func (m *Manager) Snapshot(ctx context.Context, ref string) (model.Snapshot, error) {
	list, err := m.Snapshots(ctx)
	if err != nil {
		return model.Snapshot{}, err
	}
	var found []model.Snapshot
	for _, s := range list {
		if ref != "" && (s.ID == ref || s.Name == ref) {
			return s, nil
		}
		if ref != "" && strings.HasPrefix(s.ID, ref) {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 0:
		return model.Snapshot{}, fault.New(fault.NotFound, "no snapshot %q", ref).WithHint("`banger snapshot list` shows the snapshots there are")
	case 1:
		return found[0], nil
	}
	return model.Snapshot{}, fault.New(fault.Invalid, "id prefix %q means %d snapshots", ref, len(found)).WithHint("give more digits, or the name")
}

func (m *Manager) snapshotDir(id string) string { return filepath.Join(m.Layout.Snapshots(), id) }

// openSnapshot opens a snapshot that is not damaged, as far as can be seen without reading all of it.
func (m *Manager) openSnapshot(ctx context.Context, ref string) (model.Snapshot, *snapshot.Snapshot, error) {
	s, err := m.Snapshot(ctx, ref)
	if err != nil {
		return s, nil, err
	}
	snap, err := snapshot.Open(ctx, m.snapshotDir(s.ID))
	if err == nil {
		s, err = describeSnapshot(snap)
	}
	if err != nil {
		return s, nil, fault.New(fault.KindOf(err), "%w", err).WithHint("`banger snapshot delete %s` removes what is left of it", s.ID)
	}
	return s, snap, nil
}

// DeleteSnapshot deletes a snapshot, also one that is damaged. VMs that were made from it do not mind.
func (m *Manager) DeleteSnapshot(ctx context.Context, ref string) (model.Snapshot, error) {
	s, err := m.Snapshot(ctx, ref)
	if err != nil {
		return s, err
	}
	return s, snapshot.Remove(m.snapshotDir(s.ID))
}

// RestoreSnapshot makes VMs that go on from a snapshot, or one VM in its place.
func (m *Manager) RestoreSnapshot(ctx context.Context, ref string, req model.Restore, report step.Reporter) (model.Forked, error) {
	if req.Into != "" && (req.Count > 1 || req.Name != "" || req.Remove != "") {
		return model.Forked{}, fault.New(fault.Invalid, "a restore into VM %q takes neither count nor name nor removal policy", req.Into)
	}
	if req.Into != "" { // now, rather than when all of the snapshot was read; it decides nothing
		switch v, err := m.Get(req.Into); {
		case err != nil:
			return model.Forked{}, err
		case !v.State.Between():
			if err := mayReplace(v, req.Force); err != nil {
				return model.Forked{}, err
			}
		}
	}
	c, err := m.captureOf(ctx, ref, req.DisksOnly, report)
	if err != nil {
		return model.Forked{}, err
	}
	defer c.close()
	if req.Into != "" {
		v, err := m.restoreInto(ctx, req.Into, c, req.Force, report)
		return model.Forked{Children: []model.Child{{Name: v.Spec.Name, VM: &v}}}, err
	}
	names, err := childNames(model.VM{Spec: c.meta.Spec}, req.Fork)
	if err != nil {
		return model.Forked{}, err
	}
	m.removeUnwanted(ctx) // one may have a name that is asked for
	forked := m.makeChildren(ctx, c, names, req.Fork, report)
	m.observe(ctx)
	return forked, nil
}

// captureOf is a stored snapshot as the origin of VMs. All of it is checked first.
func (m *Manager) captureOf(ctx context.Context, ref string, disksOnly bool, report step.Reporter) (*capture, error) {
	s, snap, err := m.openSnapshot(ctx, ref)
	if err != nil {
		return nil, err
	}
	end := report.Track("verify", s.Name)
	err = snap.Verify(ctx)
	end(err)
	if err != nil {
		return nil, err
	}
	c := &capture{
		parent: model.Parent{VM: s.VMID, Name: s.VM, Snapshot: s.ID}, meta: snap.Meta(), kind: model.FromSnapshot, disks: disksIn(snap),
	}
	spec := c.meta.Spec
	spec.Name = "unnamed" // the VM's own name does not matter
	if err := spec.Validate(); err != nil {
		return nil, fault.New(fault.Invalid, "snapshot %s: %w", s.Name, err)
	}
	home, memory := c.disks[workDiskName] != "", s.Kind == model.SnapshotFull
	if c.disks[systemDiskName] == "" || home && spec.WorkDiskSize == 0 || !home && spec.WorkDiskSize != 0 && memory { // else the next start makes it
		return nil, fault.New(fault.Invalid, "snapshot %s does not have the disks that its VM had", s.Name)
	}
	if memory && c.meta.Fingerprint == "" {
		return nil, fault.New(fault.Invalid, "snapshot %s does not say what machine its memory is of", s.Name)
	}
	if memory && !disksOnly {
		if c.memory, err = snap.OpenMemory(); err != nil {
			return nil, err
		}
		c.openDevice = snap.OpenDevice
	}
	return c, nil
}

// restoreInto gives a VM the disks of a snapshot, and its memory if it has one. What the VM was before is lost, but not before all that can be missing is
// there. What it is is looked at under its operation lock, so that nobody starts it in between.
func (m *Manager) restoreInto(ctx context.Context, ref string, c *capture, force bool, report step.Reporter) (model.VM, error) {
	e, ctx, release, err := m.begin(ctx, ref, opStart)
	if err != nil {
		return model.VM{}, err
	}
	defer release()
	if err := mayReplace(e.record(), force); err != nil {
		return e.record(), err
	}
	if err := m.checkRestorable(ctx, e.record(), c); err != nil {
		return e.record(), err
	}
	stage := filepath.Join(m.Layout.Snapshots(), disk.TempPrefix+model.NewID()) // where what a crash leaves is found
	defer os.RemoveAll(stage)
	end := report.Track("disks", "")
	err = stageDisks(ctx, c.disks, stage)
	end(err)
	if err == nil { // from here on it is done, however ctx ends
		err = m.replace(context.WithoutCancel(ctx), e, c, stage, report)
	}
	defer m.observe(ctx)
	if err != nil {
		return e.record(), fmt.Errorf("restoring VM %s: %w", e.record().Spec.Name, err)
	}
	if c.memory == nil {
		return e.record(), nil
	}
	c.single = true
	from, err := c.origin()
	if err != nil {
		return e.record(), err
	}
	err = m.start(context.WithoutCancel(ctx), e, from, report)
	return e.record(), err
}

// mayReplace refuses a VM that has more to lose than its disks, unless that is wanted.
func mayReplace(v model.VM, force bool) error {
	switch v.State {
	case model.Stopped, model.Failed:
		return nil
	case model.Running, model.Paused, model.Suspended, model.Broken:
		if force {
			return nil
		}
		return fault.New(fault.WrongState, "VM %s is %s, and what it is now would be lost", v.Spec.Name, v.State).
			WithHint("stop it first, or restore with --force")
	}
	return fault.New(fault.WrongState, "VM %s is %s", v.Spec.Name, v.State)
}

// checkRestorable tells whether a VM can become what a capture keeps.
func (m *Manager) checkRestorable(ctx context.Context, v model.VM, c *capture) error {
	if err := m.checkParts(c.meta.Spec); err != nil {
		return err
	}
	r, ok := m.Driver.(vmm.Restorer)
	if c.memory == nil || !ok {
		return nil
	}
	v.Spec = c.meta.Spec
	machine, err := m.describe(ctx, v, model.Image{}, model.Kernel{}, nil)
	if err != nil {
		return err
	}
	return checkShape(ctx, r, machine, c.meta.Fingerprint)
}

// stageDisks makes a folder with copies of disks.
func stageDisks(ctx context.Context, disks map[string]string, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("making a folder: %w", disk.NoSpace(err, dir))
	}
	_, err := copyDisks(ctx, disks, dir+"/", disk.Clone)
	return err
}

// replace ends a VM's machine and makes the VM what a capture keeps, whose disks are in stage: all of it or nothing, wherever it is cut off. The turning
// point is the record: before, the VM has its own disks; after, it has the capture's, which place brings to their places, or whoever comes next.
func (m *Manager) replace(ctx context.Context, e *entry, c *capture, stage string, report step.Reporter) error {
	if v := e.record(); v.State != model.Stopped && v.State != model.Failed {
		if err := m.settle(ctx, e, nil); err != nil {
			return err
		}
	}
	files := m.Layout.VM(e.record().ID)
	err := removeAll(files.Restored()) // of a restore that did not get as far as its record
	if err == nil {
		err = os.Rename(stage, files.Restored())
	}
	if err == nil {
		err = disk.SyncDir(files.Dir)
	}
	if err != nil {
		return err
	}
	err = m.update(ctx, e, func(v *model.VM) {
		parent := c.parent
		v.Spec, v.DiskImage, v.Parent = withOwn(c.meta.Spec, v.Spec), c.meta.Spec.ImageID, &parent
		v.State, v.LastError, v.Restoring = model.Stopped, nil, sortedKeys(c.disks)
	})
	if err != nil {
		// A failed write may have had its effect: the record is put right before the disks go that it may name.
		if undo := m.update(ctx, e, func(*model.VM) {}); undo != nil {
			return errors.Join(err, undo)
		}
		return errors.Join(err, removeAll(files.Restored()))
	}
	return m.place(ctx, e, report)
}

// place brings the disks of a restore to their places. It goes on from wherever an earlier one was cut off.
func (m *Manager) place(ctx context.Context, e *entry, report step.Reporter) error {
	v := e.record()
	files := m.Layout.VM(v.ID)
	for _, d := range []struct{ name, path string }{{systemDiskName, files.SystemDisk()}, {workDiskName, files.WorkDisk()}} {
		end := report.Track("place", d.name)
		err := placeDisk(filepath.Join(files.Restored(), d.name), d.path, slices.Contains(v.Restoring, d.name))
		end(err)
		if err != nil {
			return fmt.Errorf("placing disk %s: %w", d.name, err)
		}
	}
	if err := disk.SyncDir(files.Dir); err != nil {
		return err
	}
	if err := m.update(ctx, e, func(v *model.VM) { v.Restoring = nil }); err != nil {
		return err
	}
	return removeAll(files.Restored())
}

// placeDisk makes a file a VM's disk, unless that was done before. A disk that the VM shall not have any more goes.
func placeDisk(from, to string, wanted bool) error {
	if !wanted {
		return removeAll(to)
	}
	err := os.Rename(from, to)
	if errors.Is(err, os.ErrNotExist) {
		_, err = os.Stat(to)
	}
	return err
}

// finishRestore completes a restore that was cut off. The VM cannot be used before.
func (m *Manager) finishRestore(ctx context.Context, e *entry) error {
	v := e.record()
	if len(v.Restoring) == 0 {
		return nil
	}
	if err := m.place(context.WithoutCancel(ctx), e, nil); err != nil {
		return fmt.Errorf("completing the restore of VM %s: %w", v.Spec.Name, err)
	}
	return nil
}

// ExportSnapshot writes a snapshot as one stream that ImportSnapshot reads.
func (m *Manager) ExportSnapshot(ctx context.Context, ref string, w io.Writer, report step.Reporter) error {
	_, snap, err := m.openSnapshot(ctx, ref)
	if err != nil {
		return err
	}
	return snapshot.Export(ctx, snap, w, progress(report, "export"))
}

// ImportSnapshot takes an exported snapshot in, under a name of its own ("": the one that it had, or a random one when that is taken).
func (m *Manager) ImportSnapshot(ctx context.Context, r io.Reader, name string, report step.Reporter) (model.Snapshot, error) {
	if name != "" {
		if err := model.CheckName(name); err != nil {
			return model.Snapshot{}, fault.New(fault.Invalid, "%w", err)
		}
		if _, err := m.freeSnapshotName(ctx, name); err != nil { // now, rather than when all of it has come
			return model.Snapshot{}, err
		}
	}
	named := false // the lock is held from the choice of the name until the snapshot has it
	defer func() {
		if named {
			m.naming.Unlock()
		}
	}()
	snap, err := snapshot.Import(ctx, r, m.snapshotDir(model.NewID()), snapshot.Limits{}, progress(report, "import"), func(meta snapshot.Meta) (json.RawMessage, error) {
		m.naming.Lock()
		named = true
		return m.relabel(ctx, meta, name)
	})
	if err != nil {
		return model.Snapshot{}, err
	}
	return describeSnapshot(snap)
}

// relabel is the label of an imported snapshot. What it says itself is not trusted.
func (m *Manager) relabel(ctx context.Context, meta snapshot.Meta, name string) (json.RawMessage, error) {
	var l label
	if err := json.Unmarshal(meta.Extra, &l); err != nil {
		return nil, fault.New(fault.Invalid, "the snapshot does not say whose it is: %w", err)
	}
	if model.CheckName(l.VM) != nil || !model.IsID(l.VMID) || model.CheckName(l.Name) != nil || l.Pause < 0 {
		return nil, fault.New(fault.Invalid, "the snapshot's label is none of ours")
	}
	spec := meta.Spec
	spec.Name = l.VM
	if err := spec.Validate(); err != nil {
		return nil, fault.New(fault.Invalid, "the VM of the snapshot: %w", err)
	}
	wanted := firstOf(name, l.Name)
	free, err := m.freeSnapshotName(ctx, wanted)
	if fault.KindOf(err) == fault.Exists && name == "" {
		free, err = m.freeSnapshotName(ctx, "")
	}
	if err != nil {
		return nil, err
	}
	l.Name = free
	return json.Marshal(l)
}

func progress(report step.Reporter, name string) func(done, total int64) {
	return func(done, total int64) {
		report.Report(step.Event{Step: name, Phase: step.Progress, Done: done, Total: total, Unit: "bytes"})
	}
}

// snapshotReferences adds the images and kernels that stored snapshots need. One that cannot be read keeps everything from being deleted: it might
// need it. One that is damaged needs nothing any more.
func (m *Manager) snapshotReferences(images, kernels map[string][]string) error {
	return m.eachSnapshot(context.Background(), func(id string, snap *snapshot.Snapshot, err error) error {
		if fault.KindOf(err) == fault.Invalid {
			return nil
		}
		if err != nil {
			return err
		}
		name := "snapshot " + id
		if s, err := describeSnapshot(snap); err == nil {
			name = "snapshot " + s.Name
		}
		spec := snap.Meta().Spec
		images[spec.ImageID] = append(images[spec.ImageID], name)
		kernels[spec.KernelID] = append(kernels[spec.KernelID], name)
		return nil
	})
}
