// Package snapshot keeps the files of saved machines: a machine's memory, the state of its devices,
// its disks, and a description. Named snapshots, suspended VMs and templates all have such files.
// Their owners decide what a snapshot means and where it lies.
//
// A snapshot is a directory of mode 0700 with files of mode 0600:
//
//	meta.json     the description, with a sum of its own; and sizes and sums of the other files
//	memory        exactly the guest's memory, with holes where it is zero  } in a full snapshot
//	device        the state of the devices, as the driver wrote it         } only
//	<name>.ext4   any number of disks
//
// A snapshot never changes. A single rename makes a Draft a snapshot, after everything was synced.
// Remove also begins with a single rename. Both work in directories whose names start with
// disk.TempPrefix, and CleanTemp finds those after a crash. A snapshot has no lock: its owner
// ensures that nobody removes it while it is in use. Open files stay usable in any case.
//
// Export writes a snapshot as one stream, and Import makes a snapshot from such a stream.
//
// Snapshots are not trusted. One may come through Import, or somebody put its directory there. So
// everything is checked before it is used, all sizes are bounded, links are not followed, and files
// that other users can write are rejected. Sums find accidents, not forgeries. Digests and a seal
// find forgeries, too: see package seal.
//
// Sums of large files are expensive, so Open relies on times. Commit and Open write the description
// after they have checked the files. A file is unchanged if its modification time is the recorded
// one and its change time (inode(7)), which nobody can set, is not later than the description's. If
// the directory was copied, these times differ. Then Open reads the file, and restores its times if
// its sum is right.
package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
)

// Snapshot is a complete snapshot. It holds nothing open and is safe for concurrent use.
type Snapshot struct {
	dir       string
	meta      Meta
	disksOnly bool // the memory and the device state are not looked at
}

// Open checks the description at dir, and the owner, mode, size and times of every file. It reads
// the memory and disks only if their times are wrong. It fails with fault.NotFound if dir is
// missing, and with fault.Invalid if a file is damaged.
func Open(ctx context.Context, dir string) (*Snapshot, error) {
	return openAs(ctx, dir, false)
}

// OpenDisks is Open for the disks alone: the memory and the state of the devices may be damaged.
func OpenDisks(ctx context.Context, dir string) (*Snapshot, error) {
	return openAs(ctx, dir, true)
}

// AsDamage makes an error about a bad file of a snapshot, which is no input of the caller,
// fault.Damaged. It returns all other errors unchanged.
func AsDamage(err error) error {
	if fault.KindOf(err) != fault.Invalid {
		return err
	}
	return fault.New(fault.Damaged, "%w", err)
}

func openAs(ctx context.Context, dir string, disksOnly bool) (*Snapshot, error) {
	s, err := open(ctx, filepath.Clean(dir), disksOnly)
	if err != nil {
		return nil, fmt.Errorf("opening snapshot %s: %w", dir, err)
	}
	return s, nil
}

func open(ctx context.Context, dir string, disksOnly bool) (*Snapshot, error) {
	d, err := openDirectory(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	meta, err := d.readMeta()
	if err != nil {
		return nil, err
	}
	s := &Snapshot{dir: dir, meta: meta, disksOnly: disksOnly}
	vouched, err := d.vouched()
	if err != nil {
		return nil, err
	}
	stale := false
	for _, f := range s.files() {
		reread, err := d.check(ctx, f, vouched)
		if err != nil {
			return nil, err
		}
		stale = stale || reread
	}
	if stale && !disksOnly { // vouching is for all files
		return s, d.vouch(meta)
	}
	return s, nil
}

// vouched returns the time when all files were last known to be right: the change time of the
// description, which is written last.
func (d directory) vouched() (time.Time, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(d.Fd()), metaFile, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return time.Time{}, &fs.PathError{Op: "looking at", Path: filepath.Join(d.Name(), metaFile), Err: err}
	}
	return time.Unix(st.Ctim.Unix()), nil
}

func changed(info fs.FileInfo) time.Time { return time.Unix(info.Sys().(*syscall.Stat_t).Ctim.Unix()) }

// untouched reports whether the times of a file say that it has not changed since somebody
// vouched for it.
func untouched(f file, info fs.FileInfo, vouched time.Time) bool {
	return info.ModTime().UnixNano() == f.Modified && !changed(info).After(vouched)
}

// ReadMeta returns the checked description of the snapshot at dir. It ignores all other files, so
// they may be damaged.
func ReadMeta(dir string) (Meta, error) {
	d, err := openDirectory(filepath.Clean(dir))
	if err == nil {
		defer d.Close()
		var meta Meta
		if meta, err = d.readMeta(); err == nil {
			return meta, nil
		}
	}
	return Meta{}, fmt.Errorf("reading the description of snapshot %s: %w", dir, err)
}

func (d directory) readMeta() (Meta, error) {
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

// check checks one file as Open does. It reports whether it had to read the file because its times
// are wrong.
func (d directory) check(ctx context.Context, f file, vouched time.Time) (reread bool, err error) {
	open, info, err := d.openSized(f, unix.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer open.Close()
	switch {
	case f.name == deviceFile:
		return false, verify(ctx, f, open)
	case untouched(f, info, vouched):
		return false, nil
	case f.Sum == "":
		return false, damaged("%s was changed", open.Name())
	}
	if err := verify(ctx, f, open); err != nil {
		return false, err
	}
	return true, d.restoreTime(f, open, info)
}

// openSized opens a file and checks its size.
func (d directory) openSized(f file, flags int) (*os.File, fs.FileInfo, error) {
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

// restoreTime restores the modification time of a verified file. It fails if the file changed while
// it was read.
func (d directory) restoreTime(f file, open *os.File, seen fs.FileInfo) error {
	info, err := open.Stat()
	if err != nil {
		return err
	}
	if !info.ModTime().Equal(seen.ModTime()) || !changed(info).Equal(changed(seen)) {
		return damaged("%s is being written", open.Name())
	}
	if info.ModTime().UnixNano() == f.Modified && !changed(info).After(time.Now()) {
		return nil // setting it would only make a home with hard links to the file read it again
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(f.Modified)}
	if err := unix.UtimesNanoAt(int(d.Fd()), f.name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "setting the time of", Path: open.Name(), Err: err}
	}
	return nil
}

// verify reads a file and compares its sum.
func verify(ctx context.Context, f file, open *os.File) error {
	var found sums
	var err error
	if f.name == deviceFile {
		found.sum, err = hashFile(open, int64(f.Size))
	} else {
		found, err = sumFile(ctx, open, int64(f.Size), f.Digest != "")
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return damaged("%w", err)
	}
	if err != nil {
		return err
	}
	if found != (sums{f.Sum, f.Digest}) {
		return wrongSum(open)
	}
	return nil
}

// files are the files that the snapshot was opened with.
func (s *Snapshot) files() []file {
	return slices.DeleteFunc(s.meta.files(), func(f file) bool {
		return s.disksOnly && (f.name == memoryFile || f.name == deviceFile)
	})
}

// Meta returns the description.
func (s *Snapshot) Meta() Meta { return s.meta.clone() }

// Dir returns the snapshot's directory.
func (s *Snapshot) Dir() string { return s.dir }

// OpenMemory opens the memory for a private mapping. The file is open for writing, because some
// drivers require it, but nobody may write to it. Without memory it fails with fault.NotFound; if
// the memory was changed, with fault.Invalid.
func (s *Snapshot) OpenMemory() (*os.File, error) { return s.openFile(memoryFile, unix.O_RDWR) }

// OpenDevice opens the state of the devices for reading.
func (s *Snapshot) OpenDevice() (*os.File, error) { return s.openFile(deviceFile, unix.O_RDONLY) }

func (s *Snapshot) openFile(name string, flags int) (*os.File, error) {
	for _, f := range s.files() {
		if f.name != name {
			continue
		}
		open, err := s.openChecked(f, flags)
		if err != nil {
			return nil, fmt.Errorf("opening %s of snapshot %s: %w", name, s.dir, err)
		}
		return open, nil
	}
	return nil, fault.New(fault.NotFound, "snapshot %s has no %s: it has disks only", s.dir, name)
}

func (s *Snapshot) openChecked(f file, flags int) (*os.File, error) {
	d, err := openDirectory(s.dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	vouched, err := d.vouched()
	if err != nil {
		return nil, err
	}
	open, info, err := d.openSized(f, flags)
	if err != nil {
		return nil, err
	}
	if f.name == memoryFile && !untouched(f, info, vouched) {
		open.Close()
		return nil, damaged("%s was changed", open.Name())
	}
	return open, nil
}

// DiskPath returns the path of a disk. The caller clones that file and must not change it.
func (s *Snapshot) DiskPath(name string) (string, bool) {
	for _, d := range s.meta.Disks {
		if d.Name == name {
			return filepath.Join(s.dir, diskFile(name)), true
		}
	}
	return "", false
}

// Verify reads all files and compares their sums. Of a disk without a sum (Draft.SumDisks) it
// checks the size only. It fails with fault.Invalid if a file is damaged.
func (s *Snapshot) Verify(ctx context.Context) error {
	d, err := openDirectory(s.dir)
	if err != nil {
		return fmt.Errorf("verifying snapshot: %w", err)
	}
	defer d.Close()
	for _, f := range s.files() {
		if err := d.verify(ctx, f); err != nil {
			return fmt.Errorf("verifying snapshot %s: %w", s.dir, err)
		}
	}
	return nil
}

func (d directory) verify(ctx context.Context, f file) error {
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

// Usage is the space that a snapshot uses on the host.
type Usage struct {
	Apparent  model.Bytes // the sum of the files' lengths
	Allocated model.Bytes // bytes on the file system: Own and Shared
	Own       model.Bytes // bytes that removing it frees
	// Shared is what other files use too, by reflink; 0 if the file system does not report it.
	Shared model.Bytes
}
