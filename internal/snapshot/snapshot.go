// Package snapshot keeps the files of saved machines: a machine's memory, the state of its devices, its disks, and a description of them. It
// is what named snapshots, suspended VMs and templates are made of; what they mean, and where they lie, is their owners' business.
//
// A snapshot is a folder of mode 0700 with files of mode 0600:
//
//	meta.json     what the snapshot is, and the sizes and sums of the other files; protected by a sum of its own
//	memory        exactly the guest's memory, with holes where it is zero     } in a full snapshot only
//	device        the state of the devices, as the driver wrote it            }
//	<name>.ext4   any number of disks
//
// Snapshots do not change. A Draft becomes one by a single rename, after all of it was synced; Remove makes one disappear the same way. Both
// work in folders whose names start with disk.TempPrefix, which CleanTemp finds after a crash. There is no lock on a snapshot: its owner sees to
// it that nobody removes one that is in use. Files that are open stay usable in any case.
//
// Export makes one stream of a snapshot, and Import a snapshot of such a stream.
//
// A snapshot may come from anywhere: by Import, or because somebody put the folder there. So nothing in it is believed before it was
// checked, all sizes are bounded, links are not followed, and what other users could have written is refused. Sums find accidents, not
// forgeries: a snapshot is a machine's memory, and whoever may choose that decides what the guest does.
package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
)

// Snapshot is a complete snapshot. It holds nothing open and is safe for concurrent use.
type Snapshot struct {
	dir  string
	meta Meta
}

// Open reads the description of the snapshot at dir and checks whatever is cheap: its own sum, that all files are there, are the caller's alone
// and have their sizes, the state of the devices, and by their times that the memory and the disks are as they were. A file with other times (the folder
// was copied, say) is read in full, and the times are put right when its sum is.
//
// It fails with fault.NotFound when nothing is at dir, and with fault.Invalid and the reason when it is damaged, foreign, or of a newer format.
func Open(ctx context.Context, dir string) (*Snapshot, error) {
	s, err := open(ctx, filepath.Clean(dir))
	if err != nil {
		return nil, fmt.Errorf("opening snapshot %s: %w", dir, err)
	}
	return s, nil
}

func open(ctx context.Context, dir string) (*Snapshot, error) {
	d, err := openFolder(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	meta, err := d.readMeta()
	if err != nil {
		return nil, err
	}
	s := &Snapshot{dir: dir, meta: meta}
	sealed, err := d.sealed()
	if err != nil {
		return nil, err
	}
	stale := false
	for _, f := range meta.files() {
		reread, err := d.check(ctx, f, sealed)
		if err != nil {
			return nil, err
		}
		stale = stale || reread
	}
	if stale {
		return s, d.seal()
	}
	return s, nil
}

// sealed is when the files were last known to be right: nobody has changed a file since whose inode says so, and an inode's change time (inode(7)) cannot be
// set. It is that of the description, which is written last.
func (d folder) sealed() (time.Time, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(d.Fd()), metaFile, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return time.Time{}, &fs.PathError{Op: "looking at", Path: filepath.Join(d.Name(), metaFile), Err: err}
	}
	return time.Unix(st.Ctim.Unix()), nil
}

// seal says that the files are right now.
func (d folder) seal() error {
	if err := unix.UtimesNanoAt(int(d.Fd()), metaFile, nil, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "setting the time of", Path: filepath.Join(d.Name(), metaFile), Err: err}
	}
	return nil
}

func changed(info fs.FileInfo) time.Time { return time.Unix(info.Sys().(*syscall.Stat_t).Ctim.Unix()) }

// untouched tells whether a file is the one that was kept, as far as its times tell.
func untouched(f file, info fs.FileInfo, sealed time.Time) bool {
	return info.ModTime().UnixNano() == f.Modified && !changed(info).After(sealed)
}

// ReadMeta reads the description of the snapshot at dir, as Open does, and looks at nothing else: the snapshot may be damaged.
func ReadMeta(dir string) (Meta, error) {
	d, err := openFolder(filepath.Clean(dir))
	if err == nil {
		defer d.Close()
		var meta Meta
		if meta, err = d.readMeta(); err == nil {
			return meta, nil
		}
	}
	return Meta{}, fmt.Errorf("reading the description of snapshot %s: %w", dir, err)
}

func (d folder) readMeta() (Meta, error) {
	f, _, err := d.open(metaFile, unix.O_RDONLY)
	if err != nil {
		return Meta{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxMeta+1))
	if err != nil {
		return Meta{}, err
	}
	return decodeMeta(data)
}

// check looks at one file as Open does, and tells whether it was read although it should not have been necessary.
func (d folder) check(ctx context.Context, f file, sealed time.Time) (reread bool, err error) {
	open, info, err := d.openSized(f, unix.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer open.Close()
	switch {
	case f.name == deviceFile:
		return false, verify(ctx, f, open)
	case untouched(f, info, sealed):
		return false, nil
	case f.Sum == "":
		return false, damaged("somebody wrote to %s", open.Name())
	}
	if err := verify(ctx, f, open); err != nil {
		return false, err
	}
	return true, d.restoreTime(f, open, info)
}

// openSized opens a file that must have its size.
func (d folder) openSized(f file, flags int) (*os.File, fs.FileInfo, error) {
	open, info, err := d.open(f.name, flags)
	if err != nil {
		return nil, nil, err
	}
	if info.Size() != int64(f.Size) {
		open.Close()
		return nil, nil, damaged("%s has %d bytes instead of %d", open.Name(), info.Size(), f.Size)
	}
	return open, info, nil
}

// restoreTime gives a file that was found to be right the time that says so, unless it was written while it was read.
func (d folder) restoreTime(f file, open *os.File, seen fs.FileInfo) error {
	info, err := open.Stat()
	if err != nil {
		return err
	}
	if !info.ModTime().Equal(seen.ModTime()) || !changed(info).Equal(changed(seen)) {
		return damaged("%s is being written", open.Name())
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(f.Modified)}
	if err := unix.UtimesNanoAt(int(d.Fd()), f.name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "setting the time of", Path: open.Name(), Err: err}
	}
	return nil
}

// verify reads a file and compares its sum.
func verify(ctx context.Context, f file, open *os.File) error {
	var sum string
	var err error
	if f.name == deviceFile {
		sum, err = hashFile(open, int64(f.Size))
	} else {
		sum, err = sumFile(ctx, open, int64(f.Size))
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return damaged("%w", err)
	}
	if err != nil {
		return err
	}
	if sum != f.Sum {
		return wrongSum(open)
	}
	return nil
}

// Meta returns the description.
func (s *Snapshot) Meta() Meta { return s.meta.clone() }

// Dir is the snapshot's folder.
func (s *Snapshot) Dir() string { return s.dir }

// OpenMemory opens the memory for a private mapping, which some drivers ask to be able to write: nobody shall write to the file. It fails with
// fault.NotFound when there is none (any more) and with fault.Invalid when somebody did write.
func (s *Snapshot) OpenMemory() (*os.File, error) { return s.openFile(memoryFile, unix.O_RDWR) }

// OpenDevice opens the state of the devices for reading.
func (s *Snapshot) OpenDevice() (*os.File, error) { return s.openFile(deviceFile, unix.O_RDONLY) }

func (s *Snapshot) openFile(name string, flags int) (*os.File, error) {
	for _, f := range s.meta.files() {
		if f.name != name {
			continue
		}
		open, err := s.openChecked(f, flags)
		if err != nil {
			return nil, fmt.Errorf("opening %s of snapshot %s: %w", name, s.dir, err)
		}
		return open, nil
	}
	return nil, fault.New(fault.NotFound, "snapshot %s has no %s: it keeps disks only", s.dir, name)
}

func (s *Snapshot) openChecked(f file, flags int) (*os.File, error) {
	d, err := openFolder(s.dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	sealed, err := d.sealed()
	if err != nil {
		return nil, err
	}
	open, info, err := d.openSized(f, flags)
	if err != nil {
		return nil, err
	}
	if f.name == memoryFile && !untouched(f, info, sealed) {
		open.Close()
		return nil, damaged("somebody wrote to %s", open.Name())
	}
	return open, nil
}

// DiskPath returns where a disk lies. It must be cloned, not used.
func (s *Snapshot) DiskPath(name string) (string, bool) {
	for _, d := range s.meta.Disks {
		if d.Name == name {
			return filepath.Join(s.dir, diskFile(name)), true
		}
	}
	return "", false
}

// Verify reads everything and compares it with the sums. Disks without a sum (Draft.SumDisks) are compared in size only. It fails with
// fault.Invalid when something is damaged.
func (s *Snapshot) Verify(ctx context.Context) error {
	d, err := openFolder(s.dir)
	if err != nil {
		return fmt.Errorf("verifying snapshot: %w", err)
	}
	defer d.Close()
	for _, f := range s.meta.files() {
		if err := d.verify(ctx, f); err != nil {
			return fmt.Errorf("verifying snapshot %s: %w", s.dir, err)
		}
	}
	return nil
}

func (d folder) verify(ctx context.Context, f file) error {
	open, _, err := d.openSized(f, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer open.Close()
	if f.Sum == "" {
		return nil
	}
	return verify(ctx, f, open)
}

// Usage is what a snapshot takes up on the host.
type Usage struct {
	Apparent  model.Bytes // how large its files say they are
	Allocated model.Bytes // what their file system holds of them: Own and Shared
	Own       model.Bytes // that it alone has, so what removing it gives back
	Shared    model.Bytes // that other files have as well, by reflink; 0 where the file system does not tell
}
