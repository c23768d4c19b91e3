package machine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/limit"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/snapshot"
	"banger/internal/vmm"
)

// The names of a machine's disks in saved machines.
const (
	SystemDisk = "system"
	WorkDisk   = "work"
)

// DiskPaths are where a machine's disks are or would be, by name.
func DiskPaths(files paths.VM) map[string]string {
	return map[string]string{SystemDisk: files.SystemDisk(), WorkDisk: files.WorkDisk()}
}

// Disks lists the disks that a machine has, as paths by name.
func Disks(files paths.VM) map[string]string {
	disks := DiskPaths(files)
	maps.DeleteFunc(disks, func(_, path string) bool {
		_, err := os.Stat(path)
		return err != nil
	})
	return disks
}

// DiskUse is what a machine's disks take up on the host.
func DiskUse(files paths.VM) (sum model.Bytes) {
	for _, path := range Disks(files) {
		if _, allocated, err := disk.Usage(path); err == nil {
			sum += allocated
		}
	}
	return sum
}

// SavedDisks lists the disks of a saved machine.
func SavedDisks(snap *snapshot.Snapshot) map[string]string {
	disks := map[string]string{}
	for _, name := range []string{SystemDisk, WorkDisk} {
		if path, ok := snap.DiskPath(name); ok {
			disks[name] = path
		}
	}
	return disks
}

// PlaceDisks gives a machine copies of disks: all of them or none. They last once SyncDisks
// returned.
func PlaceDisks(ctx context.Context, files paths.VM, disks map[string]string) error {
	copies, err := CopyDisks(ctx, disks, filepath.Join(files.Dir, disk.TempPrefix), disk.Copy)
	if err != nil {
		return errors.Join(err, RemoveUnfinished(files.Dir))
	}
	for name, to := range DiskPaths(files) {
		if from, ok := copies[name]; ok {
			if err := os.Rename(from, to); err != nil {
				return fmt.Errorf("placing disk %s: %w", name, err)
			}
		}
	}
	return nil
}

// CopyDisks copies disks to files whose paths begin with prefix, with copyOne.
func CopyDisks(
	ctx context.Context, disks map[string]string, prefix string, copyOne func(ctx context.Context, src, dst string) error,
) (copies map[string]string, err error) {
	copies = map[string]string{}
	for name, from := range disks {
		copies[name] = prefix + name
		if err := copyOne(ctx, from, copies[name]); err != nil {
			return nil, err
		}
	}
	return copies, nil
}

// SyncDisks makes a machine's disks last.
func SyncDisks(files paths.VM) error {
	for _, path := range Disks(files) {
		if err := disk.Sync(path); err != nil {
			return err
		}
	}
	return disk.SyncDir(files.Dir)
}

// CloneDisks copies disks into a draft.
func CloneDisks(ctx context.Context, disks map[string]string, draft *snapshot.Draft) error {
	for name, path := range disks {
		if err := draft.CloneDisk(ctx, name, path); err != nil {
			return err
		}
	}
	return nil
}

// WriteTimes returns when each disk was last written to, in nanoseconds since 1970.
func WriteTimes(disks map[string]string) (map[string]int64, error) {
	times := map[string]int64{}
	for name, path := range disks {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("looking at disk %s: %w", name, err)
		}
		times[name] = info.ModTime().UnixNano()
	}
	return times, nil
}

// earlyDisks are copies of disks that a guest may have written to meanwhile.
type earlyDisks struct {
	began   time.Time
	written map[string]int64 // the write times before the copies
}

// settled is how long a disk must be unwritten before its copy, so that its time shows whether it
// was written later: file systems keep times in steps of up to two seconds.
const settled = 3 * time.Second

// cloneEarly copies disks while the machine may write to them, so that little is left for the
// pause.
func cloneEarly(ctx context.Context, disks map[string]string, draft *snapshot.Draft) (earlyDisks, error) {
	written, err := WriteTimes(disks)
	if err != nil {
		return earlyDisks{}, err
	}
	early := earlyDisks{began: time.Now(), written: written}
	return early, CloneDisks(ctx, disks, draft)
}

// renew copies the disks again that may have changed.
func (early earlyDisks) renew(ctx context.Context, disks map[string]string, draft *snapshot.Draft) error {
	written, err := WriteTimes(disks)
	if err != nil {
		return err
	}
	changed := maps.Clone(disks)
	maps.DeleteFunc(changed, func(name, _ string) bool {
		then := early.written[name]
		return then == written[name] && then < early.began.Add(-settled).UnixNano()
	})
	return CloneDisks(ctx, changed, draft)
}

// Drive is a writable disk of a machine.
type Drive struct {
	Path string
	Name string      // of the drive in the machine: see vmm.Drive
	Size model.Bytes // that it shall have
}

// GrowDisk grows a disk's file. If m runs and its driver can, the drive and the guest's file system
// grow as well. It reports whether the guest has the new size now; m is nil for a machine at rest.
// A disk that does not exist yet gets its size when it is made.
func GrowDisk(ctx context.Context, m *Machine, d Drive) (done bool, err error) {
	if m != nil {
		if set, err := limit.Of(m.Instance.PID()); err == nil { // it may be older than the daemon's
			if err := set.Check(limit.Need{File: d.Size}); err != nil {
				return false, fmt.Errorf("growing drive %s: %w", d.Name, err)
			}
		}
	}
	if err := disk.Grow(d.Path, d.Size); err != nil {
		if fault.KindOf(err) == fault.NotFound {
			return false, nil
		}
		return false, err
	}
	if m == nil {
		return true, nil
	}
	r, ok := m.Instance.(vmm.Resizer)
	if !ok {
		return false, nil
	}
	if err := r.ResizeDrive(ctx, d.Name, d.Size); err != nil {
		return false, fmt.Errorf("announcing the new size of drive %s: %w", d.Name, err)
	}
	if err := m.Agent.Resize(ctx, m.Instance.DriveID(d.Name), d.Size); err != nil {
		return false, fmt.Errorf("growing the file system on drive %s: %w", d.Name, err)
	}
	return true, nil
}

// FitDisk grows a disk to size if it is smaller. A change that was cut off between the disk and the
// record has left it larger, and disks never shrink. A missing disk is fault.NotFound.
func FitDisk(path string, size model.Bytes) error {
	now, _, err := disk.Usage(path)
	if err != nil || now >= size {
		return err
	}
	return disk.Grow(path, size)
}

// checkLimits refuses a machine whose VMM could not write to all of its disks, or could not have
// its memory. Later, the guest would see I/O errors.
func checkLimits(files paths.VM, spec model.Spec) error {
	if err := limit.CheckMemory(spec.Memory); err != nil {
		return err
	}
	set, err := limit.Of(0) // the VMM inherits them
	if err != nil {
		return err
	}
	need := limit.Need{File: max(spec.DiskSize, spec.WorkDiskSize), Memory: spec.Memory}
	for _, path := range Disks(files) {
		if size, _, err := disk.Usage(path); err == nil {
			need.File = max(need.File, size)
		}
	}
	return set.Check(need)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
