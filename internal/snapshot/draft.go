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
)

// Draft is a snapshot that is being made: a temporary folder beside the one that it will be. It is not for concurrent use.
//
//	d, err := snapshot.Create(dir)
//	...
//	defer d.Discard() // nothing is left when something fails; after Commit it does nothing
type Draft struct {
	// SumDisks makes Commit take sums of the disks too, so that Verify can check them. It reads all their data, so it is for what lives long.
	SumDisks bool

	dir, temp string
	folder    folder   // open for its lock, by which CleanTemp knows that somebody is at it; closed when done
	memory    *os.File // nil before Memory is called
	disks     []string // names
	done      bool     // committed or discarded

	want []file             // what the sums must be, in the order of Meta.files; nil when they may be anything
	hook func(phase string) // tests crash in it
}

// createTries bounds how often Create tries again because CleanTemp took its folder in the instant before it was locked.
const createTries = 10

// Create begins a snapshot at dir. It fails with fault.Exists when there is something already. Its parent is made if need be. Any number of
// drafts may be begun for one dir: the first to commit gets it.
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
	return nil, fault.New(fault.Locked, "somebody keeps removing unfinished snapshots in %s", filepath.Dir(dir))
}

// lock marks the folder as being worked on. It tells whether that was in time.
func (d *Draft) lock() (kept bool, err error) {
	d.folder, err = openFolder(d.temp)
	if fault.KindOf(err) == fault.NotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := unix.Flock(int(d.folder.Fd()), unix.LOCK_EX); err != nil { // waits for a CleanTemp at most
		d.folder.Close()
		return false, err
	}
	if _, err := os.Lstat(d.temp); err != nil { // a random name: what is there is this folder or nothing
		d.folder.Close()
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

// Memory returns the file that gets the machine's memory: the first call makes it, empty. It is the Draft's to close. A draft of which
// nobody asks for the memory becomes a snapshot of disks only.
func (d *Draft) Memory() (*os.File, error) {
	if d.memory != nil {
		return d.memory, nil
	}
	f, _, err := d.folder.open(memoryFile, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return nil, fmt.Errorf("creating the snapshot's memory: %w", disk.NoSpace(err, d.dir))
	}
	d.memory = f
	return f, nil
}

// Device is the path of the file that the driver makes for the state of the devices.
func (d *Draft) Device() string { return filepath.Join(d.temp, deviceFile) }

// CloneDisk keeps a copy of the file from as the disk of the given name ([a-z0-9-]), in place of an earlier one. When it is called the last time, from
// must not change meanwhile: the machine stands still, so this neither syncs nor sums, which Commit does.
func (d *Draft) CloneDisk(ctx context.Context, name, from string) error {
	if err := d.cloneDisk(ctx, name, from); err != nil {
		return fmt.Errorf("keeping disk %s: %w", name, disk.NoSpace(err, d.dir))
	}
	return nil
}

// DiskPath is where a disk lies that CloneDisk has kept, as long as the draft is one.
func (d *Draft) DiskPath(name string) string { return filepath.Join(d.temp, diskFile(name)) }

func (d *Draft) cloneDisk(ctx context.Context, name, from string) error {
	src, err := os.Open(from)
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

// newDisk makes the file of a disk. flag says what becomes of one that is there: unix.O_EXCL or O_TRUNC.
func (d *Draft) newDisk(name string, flag int) (*os.File, error) {
	if err := checkDiskName(name); err != nil {
		return nil, fault.New(fault.Invalid, "%w", err)
	}
	f, _, err := d.folder.open(diskFile(name), unix.O_RDWR|unix.O_CREAT|flag)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(d.disks, name) {
		d.disks = append(d.disks, name)
	}
	return f, nil
}

// Commit makes the draft a snapshot: it takes sums, syncs everything and gives the folder its name, in this order, so that what is at dir is
// complete whenever the host crashes. It fills in the second group of meta's fields. When it fails, nothing is at dir, and Discard removes what is
// left. It fails with fault.Exists when another draft came first, and with fault.Unavailable when the file system is full.
func (d *Draft) Commit(ctx context.Context, meta Meta) (*Snapshot, error) {
	s, err := d.commit(ctx, meta.clone())
	if err != nil {
		return nil, fmt.Errorf("keeping snapshot %s: %w", d.dir, disk.NoSpace(err, d.dir))
	}
	return s, nil
}

func (d *Draft) commit(ctx context.Context, meta Meta) (*Snapshot, error) {
	if d.done {
		return nil, errors.New("the draft is done with")
	}
	d.list(&meta)
	if err := d.fill(ctx, meta); err != nil {
		return nil, err
	}
	if err := meta.check(); err != nil {
		return nil, fault.New(fault.Invalid, "%w", err)
	}
	for i, f := range meta.files() {
		if d.want != nil && d.want[i].Sum != "" && d.want[i].Sum != f.Sum {
			return nil, damaged("the sum of its %s is wrong", f.name)
		}
	}
	d.hook("filled")
	if err := d.writeMeta(meta); err != nil {
		return nil, err
	}
	if err := d.folder.Sync(); err != nil {
		return nil, err
	}
	d.hook("synced")
	if err := d.publish(); err != nil {
		return nil, err
	}
	d.close()
	return &Snapshot{dir: d.dir, meta: meta}, nil
}

// list says what there is.
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

// fill syncs the files and says how they are.
func (d *Draft) fill(ctx context.Context, meta Meta) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, f := range meta.files() {
		open, info, err := d.folder.openAny(f.name, unix.O_RDONLY)
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

// fillOne reads a file for its sum while the kernel writes it: both take long.
func (d *Draft) fillOne(ctx context.Context, f file, open *os.File) error {
	if f.Size > f.max {
		return fault.New(fault.Invalid, "%s has %v; %v is the most", f.name, f.Size, f.max)
	}
	if err := open.Chmod(0o600); err != nil { // the device's file is the driver's making
		return err
	}
	synced := make(chan error, 1)
	go func() { synced <- open.Sync() }()
	var err error
	switch {
	case f.name == deviceFile:
		f.Sum, err = hashFile(open, int64(f.Size))
	case f.disk == "" || d.SumDisks:
		f.Sum, err = sumFile(ctx, open, int64(f.Size))
	}
	if err := errors.Join(err, <-synced); err != nil {
		return err
	}
	info, err := open.Stat()
	if err != nil {
		return err
	}
	if info.ModTime().UnixNano() != f.Modified || info.Size() != int64(f.Size) {
		return fmt.Errorf("%s changes while it is kept", open.Name())
	}
	return nil
}

func (d *Draft) writeMeta(meta Meta) error {
	data, err := encodeMeta(meta)
	if err != nil {
		return err
	}
	f, _, err := d.folder.open(metaFile, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// publish gives the folder its name, durably or not at all.
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

// renameNew renames a folder and replaces nothing, not even an empty folder as rename(2) would.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	switch {
	case errors.Is(err, unix.EEXIST):
		return exists(to)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS): // few file systems cannot (NFS); drafts of one dir must not race there
		if err := checkFree(to); err != nil {
			return err
		}
		return os.Rename(from, to)
	case err != nil:
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// Discard removes a draft that was not committed. It may be called at any time, and again when it failed.
func (d *Draft) Discard() error {
	if d.done {
		return nil
	}
	remove := os.RemoveAll
	if d.temp == d.dir {
		remove = Remove
	}
	if err := remove(d.temp); err != nil {
		return fmt.Errorf("discarding a draft: %w", err)
	}
	d.close()
	return nil
}

func (d *Draft) close() {
	d.done = true
	if d.memory != nil {
		d.memory.Close()
	}
	d.folder.Close()
}
