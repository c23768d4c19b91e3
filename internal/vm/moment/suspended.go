package moment

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"banger/internal/disk"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/snapshot"
	"banger/internal/step"
)

// Suspend makes a draft with the memory of a VM's own machine, which stands still, the memory that
// the VM resumes from.
func Suspend(ctx context.Context, draft *snapshot.Draft, meta snapshot.Meta, files paths.VM) error {
	if err := machine.SyncDisks(files); err != nil { // so that their times survive a power loss
		return err
	}
	return suspension{}.commit(ctx, draft, meta, machine.Disks(files))
}

// Resume opens the memory that a VM keeps beside its disks, and checks all of it. If it was copied
// from a snapshot, its guest gets the VM's identity; otherwise the guest has that.
func Resume(ctx context.Context, v model.VM, files paths.VM) (from machine.Source, driver string, err error) {
	snap, then, err := openKept(ctx, v.Spec.Name, files)
	if err != nil {
		return nil, "", err
	}
	if err := snap.Verify(ctx); err != nil {
		return nil, "", unreadable(err, v.Spec.Name)
	}
	meta := snap.Meta()
	if then.Snapshot == "" {
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
