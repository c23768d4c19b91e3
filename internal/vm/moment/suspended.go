package moment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/snapshot"
	"banger/internal/snapshot/library"
	"banger/internal/step"
)

// suspension is what memory that a VM keeps beside its disks says of itself besides what it is.
type suspension struct {
	// Written is when each disk was last written to. Another time means another disk.
	Written map[string]int64 `json:"written"`
	// Snapshot is the id of the stored snapshot that the memory was copied from. The VM has not
	// started from it yet. "" for memory of the VM's own machine.
	Snapshot string `json:"snapshot,omitempty"`
}

// commit makes a draft the memory that fits some disks.
func (s suspension) commit(ctx context.Context, draft *snapshot.Draft, meta snapshot.Meta, disks map[string]string) (err error) {
	if s.Written, err = machine.WriteTimes(disks); err != nil {
		return err
	}
	if meta.Extra, err = json.Marshal(s); err != nil {
		return fmt.Errorf("describing the memory: %w", err)
	}
	meta.Seal = nil // a snapshot's is not of this description
	_, err = draft.Commit(ctx, meta)
	return err
}

// Suspend makes a draft with the memory of a VM's own machine, which stands still, the memory that
// the VM resumes from.
func Suspend(ctx context.Context, draft *snapshot.Draft, meta snapshot.Meta, files paths.VM) error {
	return suspension{}.commit(ctx, draft, meta, machine.Disks(files))
}

// Resume opens the memory that a VM keeps beside its disks, and checks all of it. If it was copied
// from a snapshot, its guest gets the VM's identity; otherwise the guest has that.
func Resume(ctx context.Context, v model.VM, files paths.VM) (from machine.Source, driver string, err error) {
	snap, err := snapshot.Open(ctx, files.Suspended())
	if err == nil {
		err = snap.Verify(ctx)
	}
	if err != nil {
		f := fault.New(fault.KindOf(snapshot.AsDamage(err)), "reading its memory: %w", err)
		return nil, "", f.WithHint("`banger vm kill %s` gives its memory up; its disks stay, and it can be started again", v.Spec.Name)
	}
	meta := snap.Meta()
	var then suspension
	if json.Unmarshal(meta.Extra, &then) != nil || then.Snapshot == "" {
		r := &machine.Resume{VM: v.ID, Spec: meta.Spec, Shape: meta.Fingerprint}
		return r, meta.Driver, r.Open(snap)
	}
	f := &machine.Fork{From: model.Origin{Kind: model.FromSnapshot, Of: then.Snapshot}, Shape: meta.Fingerprint, Alone: true}
	if v.Parent != nil {
		f.From.Name = v.Parent.Name
	}
	return f, meta.Driver, f.Open(snap)
}

// CutOff returns what a start that was cut off began from, without the files, if its machine has
// come up from memory that the VM keeps; otherwise nil. The pid is recorded when it has come up.
func CutOff(v model.VM, files paths.VM) machine.Source {
	if v.Runtime == nil || v.Runtime.PID == 0 || v.Runtime.Spec == nil || !disk.MayExist(files.Suspended()) {
		return nil
	}
	if v.Runtime.Resumed {
		return &machine.Resume{VM: v.ID}
	}
	from := model.Origin{Kind: model.FromSnapshot}
	if v.Parent != nil {
		from.Of, from.Name = v.Parent.Snapshot, v.Parent.Name
	}
	return &machine.Fork{From: from}
}

// Kept is the memory that a VM keeps beside its disks, when it looked at them.
type Kept struct {
	Fits     bool   // no disk was written to since
	Snapshot string // that the memory was copied from; "" for none
	written  map[string]int64
}

// Look looks at the memory that a VM keeps. Missing or damaged memory does not fit. An error means
// that nobody can tell now.
func Look(ctx context.Context, files paths.VM) (Kept, error) {
	snap, err := snapshot.Open(ctx, files.Suspended())
	if kind := fault.KindOf(err); kind == fault.NotFound || kind == fault.Invalid {
		return Kept{}, nil
	}
	if err != nil {
		return Kept{}, err
	}
	var then suspension
	if json.Unmarshal(snap.Meta().Extra, &then) != nil {
		return Kept{}, nil
	}
	now, err := machine.WriteTimes(machine.Disks(files))
	return Kept{Fits: maps.Equal(now, then.Written), Snapshot: then.Snapshot, written: then.Written}, err
}

// KeepFitting reports whether a VM keeps memory that fits its disks. Other memory is removed.
func KeepFitting(ctx context.Context, files paths.VM) (bool, error) {
	if !disk.MayExist(files.Suspended()) {
		return false, nil
	}
	kept, err := Look(ctx, files)
	if err == nil && !kept.Fits {
		err = snapshot.Remove(files.Suspended())
	}
	return err == nil && kept.Fits, err
}

// Serves reports whether a VM can still start from its memory, after such a start whose machine has
// ended: not once its guest has written to a disk. If the memory was copied from a snapshot and the
// disks are renewed, they become the snapshot's again. An error means that nobody can tell now.
func Serves(ctx context.Context, snapshots *library.Library, files paths.VM, renew bool) (bool, error) {
	kept, err := Look(ctx, files)
	if err != nil || kept.Fits || kept.Snapshot == "" || !renew {
		return kept.Fits, err
	}
	disks := model.Restore{DisksOnly: true}
	s, snap, err := snapshots.OpenFor(ctx, kept.Snapshot, disks)
	if err == nil {
		err = library.Verify(ctx, s, snap, disks)
	}
	if kind := fault.KindOf(err); kind == fault.NotFound || kind == fault.Damaged {
		return false, nil
	}
	if err == nil {
		err = kept.Renew(ctx, snap, files)
	}
	return err == nil, err
}

// Renew makes disks fit the memory again that a guest has written to: copies of the snapshot's. The
// times of the disks are set last, so a call that was cut off is repeated.
func (k Kept) Renew(ctx context.Context, snap *snapshot.Snapshot, files paths.VM) error {
	for name, from := range machine.SavedDisks(snap) {
		to := machine.DiskPaths(files)[name]
		if err := disk.Clone(ctx, from, to); err != nil {
			return err
		}
		if err := os.Chtimes(to, time.Time{}, time.Unix(0, k.written[name])); err != nil {
			return err
		}
	}
	return nil
}

// Memory is the name of memory among the parts of a capture. The other parts are its disks.
const Memory = "memory"

// Parts names what Stage makes.
func (c *Capture) Parts() []string {
	parts := slices.Collect(maps.Keys(c.Disks))
	if c.HasMemory() {
		parts = append(parts, Memory)
	}
	slices.Sort(parts)
	return parts
}

// Stage makes a directory with copies of what the capture of a snapshot keeps, for a VM that gets
// spec.
func (c *Capture) Stage(ctx context.Context, dir string, spec model.Spec) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("making a directory: %w", disk.NoSpace(err, dir))
	}
	disks, err := machine.CopyDisks(ctx, c.Disks, dir+string(filepath.Separator), disk.Clone)
	if err != nil || !c.HasMemory() {
		return err
	}
	draft, err := snapshot.Create(filepath.Join(dir, Memory))
	if err != nil {
		return err
	}
	defer draft.Discard()
	memory, err := draft.Memory()
	if err != nil {
		return err
	}
	if err := disk.CloneFile(ctx, c.memory, memory); err != nil {
		return disk.NoSpace(err, dir)
	}
	if err := copyDevice(ctx, c.openDevice, draft); err != nil {
		return disk.NoSpace(err, dir)
	}
	meta := c.Meta
	meta.Spec = spec
	return suspension{Snapshot: c.Parent.Snapshot}.commit(ctx, draft, meta, disks)
}

// Place moves the parts that Stage has made, from a VM's directory for restored ones to their
// places. What the capture does not have is removed. Place continues where an earlier call was cut
// off. It reports whether the VM has memory now.
func Place(files paths.VM, parts []string, report step.Reporter) (memory bool, err error) {
	for _, name := range []string{machine.SystemDisk, machine.WorkDisk} {
		end := report.Track("place", name)
		err := place(filepath.Join(files.Restored(), name), machine.DiskPaths(files)[name], slices.Contains(parts, name))
		end(err)
		if err != nil {
			return false, fmt.Errorf("placing disk %s: %w", name, err)
		}
	}
	from, to := filepath.Join(files.Restored(), Memory), files.Suspended()
	memory = slices.Contains(parts, Memory)
	if !memory || disk.MayExist(from) { // then what is there is older
		err = snapshot.Remove(to)
	}
	if err == nil {
		err = place(from, to, memory)
	}
	if errors.Is(err, fs.ErrNotExist) { // of a rebuilt record that was too old: see package rescue
		memory, err = false, nil
	}
	if err != nil {
		return false, fmt.Errorf("placing the memory: %w", err)
	}
	return memory, disk.SyncDir(files.Dir)
}

// place moves a part to its place, unless that was done before. An unwanted one is removed.
func place(from, to string, wanted bool) error {
	if !wanted {
		return machine.RemoveAll(to)
	}
	err := os.Rename(from, to)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = os.Stat(to)
	}
	return err
}
