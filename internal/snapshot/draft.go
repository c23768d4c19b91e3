package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/regular"
)

// Draft is a snapshot that is being made, in a temporary directory beside its final one. The caller
// defers Discard, which does nothing after a Commit. It is not for concurrent use.
type Draft struct {
	// SumDisks makes Commit take sums of the disks too, so that Verify can check them. Commit then
	// reads all their data; use it for snapshots that live long.
	SumDisks bool
	// Digest makes it take digests of memory and disks, too, which costs a SHA-256 of their data.
	Digest bool
	// Seal, if set, returns the seal of a complete description.
	Seal func(Meta) (*Seal, error)

	dir, temp string
	directory directory // holds the lock against CleanTemp; closed when done
	memory    *os.File  // nil until Memory is called
	disks     []string  // names
	done      bool      // committed or discarded
	filled    *Meta     // what Fill has found

	// want holds the sums that Commit requires, in the order of Meta.files; nil if it requires
	// none.
	want []file
	hook func(phase string) // tests crash in it
}

// createTries bounds how often CleanTemp may remove the directory before Create has locked it.
const createTries = 10

// Create begins a snapshot at dir, and makes the parent directory. It fails with fault.Exists if
// dir exists. Several drafts may be begun for one dir; the first Commit gets it.
func Create(dir string) (*Draft, error) {
	d, err := create(filepath.Clean(dir))
	if err != nil {
		return nil, fmt.Errorf("creating snapshot: %w", disk.NoSpace(err, dir))
	}
	return d, nil
}

func create(dir string) (*Draft, error) {
	if err := checkFree(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return nil, err
	}
	for range createTries {
		d := &Draft{dir: dir, temp: tempName(dir), hook: func(string) {}}
		if err := os.Mkdir(d.temp, 0o700); err != nil {
			return nil, err
		}
		kept, err := d.lock()
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(d.temp))
		}
		if kept {
			return d, nil
		}
	}
	return nil, fault.New(fault.Locked, "another process keeps removing unfinished snapshots in %s", filepath.Dir(dir))
}

// lock locks the directory against CleanTemp. It reports whether the directory still exists.
func (d *Draft) lock() (kept bool, err error) {
	d.directory, err = openDirectory(d.temp)
	if fault.KindOf(err) == fault.NotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// This waits only for a CleanTemp.
	if err := unix.Flock(int(d.directory.Fd()), unix.LOCK_EX); err != nil {
		d.directory.Close()
		return false, err
	}
	if _, err := os.Lstat(d.temp); err != nil { // the random name is this directory or none
		d.directory.Close()
		return false, nil
	}
	return true, nil
}

func checkFree(dir string) error {
	_, err := os.Lstat(dir)
	switch {
	case err == nil:
		return exists(dir)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return err
}

func exists(dir string) error { return fault.New(fault.Exists, "%s exists already", dir) }

// Memory returns the file for the machine's memory. The first call makes it, and the Draft closes
// it. A draft without this call becomes a snapshot of disks only.
func (d *Draft) Memory() (*os.File, error) {
	if d.memory != nil {
		return d.memory, nil
	}
	f, _, err := d.directory.open(memoryFile, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return nil, fmt.Errorf("creating the snapshot's memory: %w", disk.NoSpace(err, d.dir))
	}
	d.memory = f
	return f, nil
}

// Device returns the path at which the driver creates the state of the devices.
func (d *Draft) Device() string { return filepath.Join(d.temp, deviceFile) }

// CloneDisk clones the file from as the disk name ([a-z0-9-]) and replaces an earlier clone. During
// the last call from must not change, so the machine stands still: syncing and sums are left to
// Commit.
func (d *Draft) CloneDisk(ctx context.Context, name, from string) error {
	if err := d.cloneDisk(ctx, name, from); err != nil {
		return fmt.Errorf("keeping disk %s: %w", name, disk.NoSpace(err, d.dir))
	}
	return nil
}

// DiskPath returns the path of a cloned disk. It is valid until Commit.
func (d *Draft) DiskPath(name string) string { return filepath.Join(d.temp, diskFile(name)) }

func (d *Draft) cloneDisk(ctx context.Context, name, from string) error {
	src, err := regular.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := d.newDisk(name, unix.O_TRUNC)
	if err != nil {
		return err
	}
	return errors.Join(disk.CloneFile(ctx, src, dst), dst.Close())
}

// newDisk makes the file of a disk. flag decides about an existing one: unix.O_EXCL or O_TRUNC.
func (d *Draft) newDisk(name string, flag int) (*os.File, error) {
	if err := checkDiskName(name); err != nil {
		return nil, fault.New(fault.Invalid, "%w", err)
	}
	f, _, err := d.directory.open(diskFile(name), unix.O_RDWR|unix.O_CREAT|flag)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(d.disks, name) {
		d.disks = append(d.disks, name)
	}
	return f, nil
}

// Fill syncs all files and takes their sums, which may take long. Commit does it otherwise. The
// files must not change any more.
func (d *Draft) Fill(ctx context.Context) error {
	var meta Meta
	d.list(&meta)
	if err := d.fill(ctx, meta); err != nil {
		return fmt.Errorf("keeping snapshot %s: %w", d.dir, disk.NoSpace(err, d.dir))
	}
	d.filled = &meta
	return nil
}

// Commit takes sums, syncs all files, fills in the second part of meta, and renames the directory
// to dir. After an error nothing is at dir, and Discard removes the rest. It fails with
// fault.Exists if another draft came first, and with fault.Unavailable on a full file system.
func (d *Draft) Commit(ctx context.Context, meta Meta) (*Snapshot, error) {
	s, err := d.commit(ctx, meta.clone())
	if err != nil {
		return nil, fmt.Errorf("keeping snapshot %s: %w", d.dir, disk.NoSpace(err, d.dir))
	}
	return s, nil
}

func (d *Draft) commit(ctx context.Context, meta Meta) (*Snapshot, error) {
	if d.done {
		return nil, errors.New("the draft was committed or discarded already")
	}
	d.list(&meta)
	if d.filled != nil {
		meta.Memory, meta.Device, meta.Disks = d.filled.Memory, d.filled.Device, d.filled.Disks
	} else if err := d.fill(ctx, meta); err != nil {
		return nil, err
	}
	if err := d.complete(&meta); err != nil {
		return nil, err
	}
	d.hook("filled")
	if err := d.writeMeta(meta); err != nil {
		return nil, err
	}
	d.hook("described")
	if err := d.orderTimes(meta); err != nil {
		return nil, err
	}
	if err := d.directory.Sync(); err != nil {
		return nil, err
	}
	d.hook("synced")
	if err := d.publish(); err != nil {
		return nil, err
	}
	d.close()
	return &Snapshot{dir: d.dir, meta: meta}, nil
}

// complete checks a description whose files are known, and seals it.
func (d *Draft) complete(meta *Meta) error {
	if err := meta.check(); err != nil {
		return fault.New(fault.Invalid, "%w", err)
	}
	for i, f := range meta.files() {
		if d.want == nil {
			break
		}
		if want := d.want[i]; want.Sum != "" && want.Sum != f.Sum || want.Digest != "" && want.Digest != f.Digest {
			return damaged("the sum of its %s is wrong", f.name)
		}
	}
	if d.Seal == nil {
		return nil
	}
	var err error
	meta.Seal, err = d.Seal(meta.clone())
	return err
}

// list fills in what the draft has.
func (d *Draft) list(meta *Meta) {
	meta.Version, meta.Kind = version, model.SnapshotDisk
	meta.Memory, meta.Device, meta.Disks = nil, nil, nil
	if d.memory != nil {
		meta.Kind, meta.Memory, meta.Device = model.SnapshotFull, &File{}, &File{}
	}
	for _, name := range d.disks {
		meta.Disks = append(meta.Disks, Disk{Name: name})
	}
	if meta.Created.IsZero() {
		meta.Created = time.Now()
	}
	meta.Created = meta.Created.UTC()
}

// fill syncs the files and fills in their sizes, times and sums.
func (d *Draft) fill(ctx context.Context, meta Meta) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, f := range meta.files() {
		open, info, err := d.directory.openAny(f.name, unix.O_RDONLY)
		if err != nil {
			return errors.Join(err, group.Wait())
		}
		f.Size, f.Modified = model.Bytes(info.Size()), info.ModTime().UnixNano()
		group.Go(func() error {
			defer open.Close()
			return d.fillOne(ctx, f, open)
		})
	}
	return group.Wait()
}

// fillOne takes the sum of a file while the kernel writes it to the disk, because both take long.
func (d *Draft) fillOne(ctx context.Context, f file, open *os.File) error {
	if f.Size > f.max {
		return fault.New(fault.Invalid, "%s has %v; at most %v is allowed", f.name, f.Size, f.max)
	}
	if err := open.Chmod(0o600); err != nil { // the driver chose the mode of the device's file
		return err
	}
	synced := make(chan error, 1)
	go func() { synced <- open.Sync() }()
	var err error
	switch {
	case f.name == deviceFile:
		f.Sum, err = hashFile(open, int64(f.Size))
	case f.disk == "" || d.SumDisks:
		var found sums
		found, err = sumFile(ctx, open, int64(f.Size), d.Digest)
		f.Sum, f.Digest = found.sum, found.digest
	}
	if err := errors.Join(err, <-synced); err != nil {
		return err
	}
	info, err := open.Stat()
	if err != nil {
		return err
	}
	if info.ModTime().UnixNano() != f.Modified || info.Size() != int64(f.Size) {
		return fmt.Errorf("%s changed while it was saved", open.Name())
	}
	return nil
}

func (d *Draft) writeMeta(meta Meta) error {
	data, err := encodeMeta(meta)
	if err != nil {
		return err
	}
	f, _, err := d.directory.open(metaFile, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// orderTimes makes the description the file that changed last: see untouched. It is not if the
// host's clock was set back while the files were synced.
func (d *Draft) orderTimes(meta Meta) error {
	const tries = 3 // the clock may be set back again
	for range tries {
		vouched, err := d.directory.vouched()
		if err != nil {
			return err
		}
		late := 0
		for _, f := range meta.files() {
			open, info, err := d.directory.openAny(f.name, unix.O_RDONLY)
			if err != nil {
				return err
			}
			if changed(info).After(vouched) {
				late++
				err = d.directory.restoreTime(f, open, info)
			}
			if err := errors.Join(err, open.Close()); err != nil {
				return err
			}
		}
		if late == 0 {
			return nil
		}
		if err := d.directory.vouch(meta); err != nil {
			return err
		}
	}
	return fault.New(fault.Unavailable, "the clock of the host is set back again and again")
}

// publish renames the directory to dir durably, or not at all.
func (d *Draft) publish() error {
	if err := renameNew(d.temp, d.dir); err != nil {
		return err
	}
	d.hook("renamed")
	err := disk.SyncDir(filepath.Dir(d.dir))
	if err == nil {
		return nil
	}
	if back := os.Rename(d.dir, d.temp); back != nil {
		d.temp = d.dir // for Discard
		return errors.Join(err, back)
	}
	return err
}

// renameNew renames a directory and replaces nothing, not even an empty directory as rename(2)
// does.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	switch {
	case errors.Is(err, unix.EEXIST):
		return exists(to)
	// A few file systems (NFS) have no RENAME_NOREPLACE. Drafts for one dir must not race there.
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		if err := checkFree(to); err != nil {
			return err
		}
		return os.Rename(from, to)
	case err != nil:
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// Discard removes a draft that was not committed. It may be called at any time, and again after an
// error.
func (d *Draft) Discard() error {
	if d.done {
		return nil
	}
	var err error
	switch {
	case d.temp == d.dir:
		err = Remove(d.temp)
	case !d.removeFiles():
		err = os.RemoveAll(d.temp)
	}
	if err != nil {
		return fmt.Errorf("discarding a draft: %w", err)
	}
	d.close()
	return nil
}

// removeFiles removes the draft's directory and the files in it that a draft has. Unlike
// os.RemoveAll, it works while no more files can be opened. It reports whether nothing is left.
func (d *Draft) removeFiles() bool {
	names := []string{memoryFile, deviceFile, metaFile}
	for _, disk := range d.disks {
		names = append(names, diskFile(disk))
	}
	for _, name := range names {
		_ = unix.Unlinkat(int(d.directory.Fd()), name, 0) // what stays keeps its directory
	}
	return os.Remove(d.temp) == nil
}

func (d *Draft) close() {
	d.done = true
	if d.memory != nil {
		d.memory.Close()
	}
	d.directory.Close()
}
