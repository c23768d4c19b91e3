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
	"strings"
	"sync"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/snapshot"
)

// Library holds the stored snapshots of one home.
type Library struct {
	dir    string
	naming sync.Mutex
}

// Label is what a stored snapshot says of the VM that it is of.
type Label struct {
	Name  string        `json:"name"`
	VM    string        `json:"vm"`
	VMID  string        `json:"vm_id"`
	Pause time.Duration `json:"pause"`
}

// Open returns the library in a directory, which is made if it is missing.
func Open(dir string) (*Library, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of snapshots: %w", err)
	}
	return &Library{dir: dir}, nil
}

// Dir is where the snapshot with an id lies, or will lie.
func (l *Library) Dir(id string) string { return filepath.Join(l.dir, id) }

// Draft begins a snapshot, to be given to Store.
func (l *Library) Draft() (*snapshot.Draft, error) { return snapshot.Create(l.Dir(model.NewID())) }

// Store makes a draft a stored snapshot under a name; "" is a random one.
func (l *Library) Store(ctx context.Context, draft *snapshot.Draft, meta snapshot.Meta, label Label) (model.Snapshot, error) {
	l.naming.Lock()
	defer l.naming.Unlock()
	var err error
	if label.Name, err = l.FreeName(ctx, label.Name); err != nil {
		return model.Snapshot{}, err
	}
	if meta.Extra, err = json.Marshal(label); err != nil {
		return model.Snapshot{}, fmt.Errorf("describing the snapshot: %w", err)
	}
	draft.SumDisks = true
	snap, err := draft.Commit(ctx, meta)
	if err != nil {
		return model.Snapshot{}, err
	}
	return describe(snap)
}

// FreeName returns name if no snapshot has it, and a random free one for "". A name that is free
// now may be taken a moment later: Store decides.
func (l *Library) FreeName(ctx context.Context, name string) (string, error) {
	list, err := l.List(ctx)
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

func describe(s *snapshot.Snapshot) (model.Snapshot, error) {
	meta := s.Meta()
	var label Label
	if err := json.Unmarshal(meta.Extra, &label); err != nil {
		return model.Snapshot{}, fault.New(fault.Invalid, "snapshot %s does not say whose it is: %w", s.Dir(), err)
	}
	usage, err := s.Usage()
	if err != nil {
		return model.Snapshot{}, err
	}
	found := summary(filepath.Base(s.Dir()), meta, label)
	found.Size = usage.Allocated
	return found, nil
}

func summary(id string, meta snapshot.Meta, label Label) model.Snapshot {
	return model.Snapshot{
		ID: id, Name: label.Name, VM: label.VM, VMID: label.VMID, Kind: meta.Kind, Created: meta.Created,
		Image: meta.Spec.Image, ImageID: meta.Spec.ImageID, Kernel: meta.Spec.Kernel, KernelID: meta.Spec.KernelID, VCPUs: meta.Spec.VCPUs, Memory: meta.Spec.Memory,
		Driver: meta.Driver, Pause: label.Pause,
	}
}

// describeDamaged returns what can be read of a damaged snapshot.
func (l *Library) describeDamaged(id string, damage error) model.Snapshot {
	s := model.Snapshot{ID: id}
	dir := l.Dir(id)
	if meta, err := snapshot.ReadMeta(dir); err == nil {
		var label Label
		if json.Unmarshal(meta.Extra, &label) != nil {
			label = Label{} // rather than half of one
		}
		s = summary(id, meta, label)
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
			s, err = describe(snap)
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
	entries, err := os.ReadDir(l.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("listing snapshots: %w", err)
	}
	for _, entry := range entries {
		if !model.IsID(entry.Name()) {
			continue
		}
		snap, err := snapshot.Open(ctx, l.Dir(entry.Name()))
		if _, gone := os.Lstat(l.Dir(entry.Name())); err != nil && errors.Is(gone, os.ErrNotExist) {
			continue
		}
		if err := visit(entry.Name(), snap, err); err != nil {
			return err
		}
	}
	return nil
}

// Get returns the snapshot that ref means: an id, a name, or the beginning of one id. A ref that
// reads as an id never means a name.
func (l *Library) Get(ctx context.Context, ref string) (model.Snapshot, error) {
	list, err := l.List(ctx)
	if err != nil {
		return model.Snapshot{}, err
	}
	var found []model.Snapshot
	for _, s := range list {
		if ref != "" && (s.ID == ref || s.Name == ref && !model.IDLike(ref)) {
			return s, nil
		}
		if ref != "" && strings.HasPrefix(s.ID, ref) {
			found = append(found, s)
		}
	}
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

// Open opens a snapshot that is not damaged, as far as that shows without reading all of it.
func (l *Library) Open(ctx context.Context, ref string) (model.Snapshot, *snapshot.Snapshot, error) {
	s, err := l.Get(ctx, ref)
	if err != nil {
		return s, nil, err
	}
	snap, err := snapshot.Open(ctx, l.Dir(s.ID))
	if err == nil {
		s, err = describe(snap)
	}
	if err != nil {
		return s, nil, fault.New(fault.KindOf(err), "%w", err).
			WithHint("`banger snapshot delete %s` removes what is left of it", s.ID)
	}
	return s, snap, nil
}

// Delete removes a snapshot, also a damaged one. VMs that were made from it are not affected.
func (l *Library) Delete(ctx context.Context, ref string) (model.Snapshot, error) {
	s, err := l.Get(ctx, ref)
	if err != nil {
		return s, err
	}
	return s, snapshot.Remove(l.Dir(s.ID))
}

// References calls use with the specs that stored snapshots need images and kernels for. A snapshot
// that cannot be read fails the call: it might need anything. A damaged one needs nothing any more.
func (l *Library) References(ctx context.Context, use func(name string, spec model.Spec)) error {
	return l.each(ctx, func(id string, snap *snapshot.Snapshot, err error) error {
		if fault.KindOf(err) == fault.Invalid {
			return nil
		}
		if err != nil {
			return err
		}
		name := id
		if s, err := describe(snap); err == nil {
			name = s.Name
		}
		use(name, snap.Meta().Spec)
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
