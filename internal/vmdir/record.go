// Package vmdir keeps in each VM's directory a copy of what its record says of the VM itself. If
// the database is lost, package rescue rebuilds the records from these copies.
//
// Each record has a revision, which every change raises, and a copy has that of its record. A copy
// is written after its record is durable. So if a copy has the later revision, somebody has put an
// older database back: see CheckCurrent.
//
// No record decides alone that a disk may go, because a record can be older than the disk. The mark
// "unused" in a directory says that nothing in it is a user's. A launch sets it before it makes a
// machine's first disks, and so does a fork before it copies disks. It is removed when the record
// says that the VM runs, or when all disks are copied. Directories of template builds and of
// standby machines keep it. A directory without a record that has a disk and no mark, or a copy of
// a record, is moved to the lost ones.
//
// A copy is written without waiting for the disk, because starts wait for it. Keeper syncs it
// later, and writes later what leads to a running machine. When the daemon starts, Keeper compares
// all copies with the records, and writes a copy anew if it differs.
package vmdir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/regular"
)

// version is the version of Copy's format.
const version = 1

// maxCopy bounds the size of a copy. An environment of the largest size fits many times.
const maxCopy = 1 << 20

// Copy is the copy of a record.
type Copy struct {
	Version  int       `json:"version"`
	Written  time.Time `json:"written"`
	Revision uint64    `json:"revision"` // of the record; 0 in a copy of an earlier version
	VM       model.VM  `json:"vm"`       // what lasts, and what leads to a running machine
}

// copyOf returns the copy of a record without its time and revision.
func copyOf(v model.VM) Copy {
	c := Copy{Version: version, VM: lasting(v)}
	if IsUp(v) {
		c.VM.State, c.VM.Started, c.VM.Runtime, c.VM.Network = v.State, v.Started, v.Runtime, v.Network
	}
	return c
}

// lasting is what a record says of the VM whether it runs or not.
func lasting(v model.VM) model.VM {
	return model.VM{
		ID: v.ID, Spec: v.Spec, Created: v.Created, Parent: v.Parent, DiskImage: v.DiskImage, Disks: v.Disks, Restoring: v.Restoring, Facts: v.Facts,
	}
}

// IsUp reports whether a record leads to a machine that shall continue.
func IsUp(v model.VM) bool {
	return (v.State == model.Running || v.State == model.Paused) && v.Runtime != nil && len(v.Runtime.State) > 0
}

// isKept reports whether a VM has a copy. A VM without one would not outlive the daemon: recovery
// deletes it.
func isKept(v model.VM) bool {
	neverBegan := v.Started == nil && v.Runtime != nil && v.Runtime.Fork
	return v.State != model.Creating && v.State != model.Deleting && v.Spec.Remove != model.RemoveOnDetach && !neverBegan
}

// Read returns the copy in a VM's directory. Without one, the error is fault.NotFound. If the copy
// cannot be read or is not of the VM with that id, the error is fault.Damaged.
func Read(files paths.VM, id string) (Copy, error) {
	f, err := regular.Open(files.Record())
	if errors.Is(err, fs.ErrNotExist) {
		return Copy{}, fault.New(fault.NotFound, "reading the copy of a record: %w", err)
	}
	if err != nil {
		return Copy{}, fault.New(fault.Damaged, "reading the copy of a record: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCopy+1))
	if err != nil {
		return Copy{}, fault.New(fault.Damaged, "reading the copy of a record: %w", err)
	}
	c, err := Decode(data)
	if err != nil {
		return Copy{}, fmt.Errorf("reading %s: %w", files.Record(), err)
	}
	if c.VM.ID != id {
		return Copy{}, fault.New(fault.Damaged, "reading %s: it is the copy of VM %s", files.Record(), c.VM.ID)
	}
	return c, nil
}

// Decode decodes and checks a copy. Its errors are fault.Damaged, or fault.Unsupported for a newer
// format.
func Decode(data []byte) (Copy, error) {
	var c Copy
	if len(data) > maxCopy {
		return c, fault.New(fault.Damaged, "the copy of a record has more than %d bytes", maxCopy)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return Copy{}, fault.New(fault.Damaged, "decoding the copy of a record: %w", err)
	}
	switch {
	case c.Version > version:
		return Copy{}, fault.New(fault.Unsupported, "the copy of a record has version %d; this banger reads up to %d", c.Version, version)
	case c.Version < 1:
		return Copy{}, fault.New(fault.Damaged, "the copy of a record has no version")
	case !model.IsID(c.VM.ID):
		return Copy{}, fault.New(fault.Damaged, "the copy of a record has the id %.40q", c.VM.ID)
	case c.VM.Created.IsZero():
		return Copy{}, fault.New(fault.Damaged, "the copy of a record has no creation time")
	}
	err := c.VM.Spec.Validate()
	if rt := c.VM.Runtime; err == nil && rt != nil && rt.Spec != nil {
		err = rt.Spec.Validate()
	}
	if err != nil {
		return Copy{}, fault.New(fault.Damaged, "the copy of a record: %w", err)
	}
	written, revision := c.Written, c.Revision
	c = copyOf(c.VM)
	c.Written, c.Revision = written, revision
	return c, nil
}

// tempName is the name of an unfinished copy. It has no disk.TempPrefix: a cleanup of the VM's
// directory removes files with that prefix, while a timer may be writing a copy.
const tempName = ".record-unfinished"

// write writes a copy under a temporary name, and renames it. The VM's directory must exist. Two
// copies of one VM must not be written at a time.
func write(files paths.VM, c Copy) (err error) {
	data, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encoding the copy of a record: %w", err)
	}
	if len(data) > maxCopy {
		return fmt.Errorf("writing the copy of a record: it has %d bytes", len(data))
	}
	f, err := regular.OpenFile(filepath.Join(files.Dir, tempName), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("writing the copy of a record: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("writing the copy of a record: %w", err), os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), files.Record())
}

// removeUnfinished removes what a crash has left of a copy.
func removeUnfinished(files paths.VM) error {
	if err := os.Remove(filepath.Join(files.Dir, tempName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing an unfinished copy of a record: %w", err)
	}
	return nil
}

// syncCopy makes a copy last. A copy that is gone needs none.
func syncCopy(files paths.VM) error {
	f, err := regular.Open(files.Record())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("syncing the copy of a record: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("syncing the copy of a record: %w", err)
	}
	return disk.SyncDir(filepath.Dir(files.Record()))
}
