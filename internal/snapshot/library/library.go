// Package library keeps stored snapshots: saved machines with a name, the label of the VM that they
// are of, and an id under which their directory lies.
//
// A Library is safe for concurrent use. Library.naming is held from the choice of a snapshot's name
// until the snapshot has it; it is a leaf. Nothing locks a snapshot: one that is deleted while a VM
// is made from it stays readable for whoever has its files open.
package library

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/snapshot"
	"banger/internal/snapshot/seal"
)

// Library holds the stored snapshots of one home.
type Library struct {
	dir    string
	key    *seal.Key
	naming sync.Mutex

	// Room ends an import if the host lacks space. Nil: there is always room. It is set before use.
	Room func() error
}

// Open returns the library in a directory, which is made if it is missing. keyFile holds the key of
// its seals, which is made if it is missing. Snapshots without a seal stay without.
func Open(dir, keyFile string) (*Library, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of snapshots: %w", err)
	}
	key, err := seal.Open(keyFile)
	if err != nil {
		return nil, err
	}
	return &Library{dir: dir, key: key}, nil
}

// Dir is where the snapshot with an id lies, or will lie.
func (l *Library) Dir(id string) string { return filepath.Join(l.dir, id) }

// Draft begins a snapshot, to be given to Store.
func (l *Library) Draft() (*snapshot.Draft, error) { return snapshot.Create(l.Dir(model.NewID())) }

// Store makes a draft a stored snapshot under a name; "" is a random one.
func (l *Library) Store(ctx context.Context, draft *snapshot.Draft, meta snapshot.Meta, label Label) (model.Snapshot, error) {
	var err error
	if meta.Extra, err = json.Marshal(label); err != nil {
		return model.Snapshot{}, fmt.Errorf("describing the snapshot: %w", err)
	}
	growTo(draft, &meta.Spec)
	meta.Kind, meta.Memory, meta.Device, meta.Disks = "", nil, nil, nil // Commit fills them in
	if _, err := check(meta); err != nil {                              // nobody could use it
		return model.Snapshot{}, err
	}
	draft.SumDisks, draft.Digest, draft.Seal = true, true, l.key.Seal
	if err := draft.Fill(ctx); err != nil { // before the lock: it reads all
		return model.Snapshot{}, err
	}
	l.naming.Lock()
	defer l.naming.Unlock()
	if label.Name, err = l.FreeName(label.Name); err != nil {
		return model.Snapshot{}, err
	}
	if meta.Extra, err = json.Marshal(label); err != nil {
		return model.Snapshot{}, fmt.Errorf("describing the snapshot: %w", err)
	}
	snap, err := draft.Commit(ctx, meta)
	if err != nil {
		return model.Snapshot{}, err
	}
	return l.describe(snap)
}

// growTo gives a spec the sizes of a draft's disks. A change that was cut off has left a disk
// larger than its VM's spec says: see machine.FitDisk.
func growTo(draft *snapshot.Draft, spec *model.Spec) {
	for name, size := range map[string]*model.Bytes{"system": &spec.DiskSize, "work": &spec.WorkDiskSize} {
		if now, _, err := disk.Usage(draft.DiskPath(name)); err == nil && *size != 0 {
			*size = max(*size, now)
		}
	}
}

// FreeName returns name if no snapshot has it, and a random free one for "". A name that is free
// now may be taken a moment later: Store decides. It reads descriptions only.
func (l *Library) FreeName(name string) (string, error) {
	names := map[string]bool{}
	err := l.eachMeta(func(_ string, meta snapshot.Meta, err error) error {
		if err == nil { // otherwise it has lost its name
			names[labelOf(meta).Name] = true
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	taken := func(name string) bool { return names[name] }
	if name == "" {
		return model.NewName(taken), nil
	}
	if taken(name) {
		return "", fault.New(fault.Exists, "a snapshot named %q exists already", name).
			WithHint("choose another name, or delete it with `banger snapshot delete %s`", name)
	}
	return name, nil
}

// labelOf returns the label in a description, or none rather than half of one.
func labelOf(meta snapshot.Meta) Label {
	var label Label
	if json.Unmarshal(meta.Extra, &label) != nil {
		return Label{}
	}
	return label
}

func (l *Library) describe(s *snapshot.Snapshot) (model.Snapshot, error) {
	return l.describeBy(s, check)
}

// describeBy is describe with a check of the description.
func (l *Library) describeBy(s *snapshot.Snapshot, check func(snapshot.Meta) (Label, error)) (model.Snapshot, error) {
	meta := s.Meta()
	label, err := check(meta)
	if err != nil {
		return model.Snapshot{}, fmt.Errorf("reading snapshot %s: %w", s.Dir(), err)
	}
	usage, err := s.Usage()
	if err != nil {
		return model.Snapshot{}, err
	}
	found := l.summary(filepath.Base(s.Dir()), meta, label)
	found.Size = usage.Allocated
	return found, nil
}

func (l *Library) summary(id string, meta snapshot.Meta, label Label) model.Snapshot {
	spec := meta.Spec
	s := model.Snapshot{
		ID: id, Name: label.Name, VM: label.VM, VMID: label.VMID, Kind: meta.Kind, Created: meta.Created,
		Image: spec.Image, ImageID: spec.ImageID, Kernel: spec.Kernel, KernelID: spec.KernelID,
		VCPUs: spec.VCPUs, Memory: spec.Memory, Net: spec.Net, User: spec.User, Env: len(spec.Env),
		Driver: meta.Driver, Pause: label.Pause, Sealed: l.key.Made(meta),
	}
	for _, d := range meta.Disks {
		s.Disks = append(s.Disks, model.SnapshotDrive{Name: d.Name, Size: d.Size})
	}
	return s
}

// describeDamaged returns what can be read of a damaged snapshot.
func (l *Library) describeDamaged(id string, damage error) model.Snapshot {
	s := model.Snapshot{ID: id}
	dir := l.Dir(id)
	if meta, err := snapshot.ReadMeta(dir); err == nil {
		s = l.summary(id, meta, labelOf(meta))
	}
	if space, err := disk.SpaceOf(dir); err == nil {
		s.Size = space.Own + space.Shared
	}
	s.Damaged = damage.Error()
	return s
}

// List returns the stored snapshots, the oldest first. A damaged one says so. If its age cannot be
// read, it comes first.
func (l *Library) List(ctx context.Context) ([]model.Snapshot, error) {
	list := []model.Snapshot{}
	err := l.each(ctx, func(id string, snap *snapshot.Snapshot, err error) error {
		var s model.Snapshot
		if err == nil {
			s, err = l.describe(snap)
		}
		if err != nil {
			s = l.describeDamaged(id, err)
		}
		list = append(list, s)
		return nil
	})
	slices.SortFunc(list, func(a, b model.Snapshot) int { return a.Created.Compare(b.Created) })
	return list, err
}

// each visits the stored snapshots, also those that cannot be opened. One that is deleted meanwhile
// is left out.
func (l *Library) each(ctx context.Context, visit func(id string, snap *snapshot.Snapshot, err error) error) error {
	return eachIn(l, func(dir string) (*snapshot.Snapshot, error) { return snapshot.Open(ctx, dir) }, visit)
}

// eachMeta is each for descriptions: it reads no other files.
func (l *Library) eachMeta(visit func(id string, meta snapshot.Meta, err error) error) error {
	return eachIn(l, snapshot.ReadMeta, visit)
}

func eachIn[T any](l *Library, open func(dir string) (T, error), visit func(id string, opened T, err error) error) error {
	entries, err := os.ReadDir(l.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("listing snapshots: %w", err)
	}
	for _, entry := range entries {
		if !model.IsID(entry.Name()) {
			continue
		}
		opened, err := open(l.Dir(entry.Name()))
		if _, gone := os.Lstat(l.Dir(entry.Name())); err != nil && errors.Is(gone, os.ErrNotExist) {
			continue
		}
		if err := visit(entry.Name(), opened, err); err != nil {
			return err
		}
	}
	return nil
}

// Get returns the snapshot that ref means: an id, a name, or the beginning of one id.
func (l *Library) Get(ctx context.Context, ref string) (model.Snapshot, error) {
	list, err := l.List(ctx)
	if err != nil {
		return model.Snapshot{}, err
	}
	found := model.Lookup(ref, slices.Values(list), func(s model.Snapshot) (id, name string) { return s.ID, s.Name })
	switch len(found) {
	case 0:
		return model.Snapshot{}, fault.New(fault.NotFound, "no snapshot %q", ref).
			WithHint("`banger snapshot list` shows the snapshots there are")
	case 1:
		return found[0], nil
	}
	return model.Snapshot{}, fault.New(fault.Invalid, "id prefix %q means %d snapshots", ref, len(found)).
		WithHint("give more digits, or the name")
}

// Open opens a snapshot that is not damaged, as far as that shows without reading all of it. If it
// is damaged, the error is fault.Damaged.
func (l *Library) Open(ctx context.Context, ref string) (model.Snapshot, *snapshot.Snapshot, error) {
	return l.OpenFor(ctx, ref, model.Restore{})
}

// OpenFor is Open for a restore. A restore of the disks alone takes a snapshot whose memory is
// damaged.
func (l *Library) OpenFor(ctx context.Context, ref string, req model.Restore) (model.Snapshot, *snapshot.Snapshot, error) {
	s, err := l.Get(ctx, ref)
	if err != nil {
		return s, nil, err
	}
	open, check := snapshot.Open, check
	if req.DisksOnly {
		open, check = snapshot.OpenDisks, checkForDisks
	}
	snap, err := open(ctx, l.Dir(s.ID))
	if err != nil {
		return s, nil, withWayOut(err, s, req)
	}
	found, err := l.describeBy(snap, check)
	if err != nil {
		return s, nil, withWayOut(err, s, req)
	}
	return found, snap, nil
}

// Verify reads all that a snapshot was opened with. If it is damaged, the error is fault.Damaged.
func Verify(ctx context.Context, s model.Snapshot, snap *snapshot.Snapshot, req model.Restore) error {
	return withWayOut(snap.Verify(ctx), s, req)
}

// withWayOut adds what a person can do with a snapshot that cannot be opened.
func withWayOut(err error, s model.Snapshot, req model.Restore) error {
	if err == nil {
		return nil
	}
	err = snapshot.AsDamage(err)
	f := fault.New(fault.KindOf(err), "%w", err)
	if s.Kind == model.SnapshotFull && !req.DisksOnly {
		return f.WithHint("if its disks are whole, `banger snapshot restore --disks-only %[1]s` restores them; `banger snapshot delete %[1]s` removes what is left of it", s.ID)
	}
	return f.WithHint("`banger snapshot delete %s` removes what is left of it", s.ID)
}

// Delete removes a snapshot, also a damaged one. VMs that were made from it are not affected.
func (l *Library) Delete(ctx context.Context, ref string) (model.Snapshot, error) {
	s, err := l.Get(ctx, ref)
	if err != nil {
		return s, err
	}
	return s, snapshot.Remove(l.Dir(s.ID))
}

// References calls use with the specs that stored snapshots need images and kernels for. It reads
// only descriptions, because callers hold a lock. A description that cannot be read fails the call:
// it might need anything. A damaged one needs nothing any more.
func (l *Library) References(use func(name string, spec model.Spec)) error {
	return l.eachMeta(func(id string, meta snapshot.Meta, err error) error {
		if fault.KindOf(err) == fault.Invalid {
			return nil
		}
		if err != nil {
			return err
		}
		use(cmp.Or(labelOf(meta).Name, id), meta.Spec)
		return nil
	})
}

// Measure adds what the snapshots take up.
func (l *Library) Measure(ctx context.Context, t *disk.Tally) error {
	list, err := l.List(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, s := range list {
		known[s.ID] = true
		if _, err := t.Add(model.UsageSnapshot, cmp.Or(s.Name, s.ID), l.Dir(s.ID)); err != nil {
			return err
		}
	}
	return t.AddRest(l.dir, known)
}
