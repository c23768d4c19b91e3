package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/guest/agent/drive"
	"banger/internal/guest/proto"
)

const (
	// noinit_itable: initialising a sparse disk's inode tables would write a hundred megabytes of
	// zeros to the host.
	diskOptions = "noinit_itable"
	// no_prefetch_block_bitmaps: reading bitmaps ahead would keep each machine busy for a while.
	// Older kernels do neither know the option nor read ahead.
	quietOptions = diskOptions + ",no_prefetch_block_bitmaps"
)

// Drive is an ext4 drive in use.
type Drive struct {
	Serial string   `json:"serial"`
	Dev    string   `json:"dev"`
	Target string   `json:"target"` // "" for the system disk, which is below the overlay
	Root   *os.File `json:"-"`      // its root directory, which no path names
}

// mountDrive mounts a writable ext4 drive and grows its file system to the drive's size.
func mountDrive(serial, dir string, size int64) (*Drive, error) {
	dev, err := drive.Open(context.Background(), serial, size)
	if err != nil {
		return nil, err
	}
	if err := drive.DropCache(dev); err != nil {
		return nil, err
	}
	err = mountOne(mount{dev, dir, "ext4", 0, quietOptions})
	if errors.Is(err, unix.EINVAL) {
		err = mountOne(mount{dev, dir, "ext4", 0, diskOptions})
	}
	if err != nil {
		return nil, err
	}
	root, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening drive %s: %w", serial, err)
	}
	m := &Drive{Serial: serial, Dev: dev, Root: root}
	if _, err := drive.Grow(dev, root); err != nil {
		return nil, err
	}
	return m, nil
}

// Grow grows the file system of the drive to the drive's size.
func (d Drive) Grow() error {
	_, err := drive.Grow(d.Dev, d.Root)
	return err
}

// MakeReadOnly makes the file system of the drive read-only, which also empties its journal.
// Nothing is mounted by path any more, so mount(2) cannot reach it.
func (d Drive) MakeReadOnly() error {
	fd, err := unix.Fspick(int(d.Root.Fd()), "", unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("picking the file system: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.FsconfigSetFlag(fd, "ro"); err != nil {
		return fmt.Errorf("asking for read-only: %w", err)
	}
	if err := unix.FsconfigReconfigure(fd); err != nil {
		return fmt.Errorf("remounting: %w", err)
	}
	return nil
}

// Drives are the writable drives in use. The zero value holds none. Its methods may be called
// concurrently.
type Drives struct {
	mu   sync.Mutex
	list []Drive
	lent reserves
}

func (d *Drives) add(m *Drive) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list = append(d.list, *m)
	d.lendLocked(*m)
}

func (d *Drives) lendLocked(m Drive) {
	if d.lent == nil {
		d.lent = reserves{}
	}
	d.lent.lend(m.Dev, m.Root)
}

// LendReserves makes the reserves of all drives usable that have little other room, also of those
// that are added until KeepReserves: see reserve.go.
func (d *Drives) LendReserves() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range d.list {
		d.lendLocked(m)
	}
}

// KeepReserves undoes LendReserves.
func (d *Drives) KeepReserves() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, m := range d.list {
		errs = append(errs, d.lent.keep(m.Dev, m.Root))
	}
	return errors.Join(errs...)
}

// All returns a copy of the list.
func (d *Drives) All() []Drive {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.list)
}

// TakeOver replaces the list by that of the process that served before.
func (d *Drives) TakeOver(list []Drive) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list = list
}

// Has reports whether a fork has a drive mounted at the target. The drive's id may have changed.
func (d *Drives) Has(m proto.Mount) bool {
	return slices.ContainsFunc(d.All(), func(d Drive) bool { return d.Target == path.Clean(m.Target) })
}

// Find finds a mounted drive by the id that it has now. A fork's drives may have other ids than the
// parent's.
func (d *Drives) Find(id string) (Drive, error) {
	dev, err := drive.Find(id)
	if err != nil {
		return Drive{}, fault.New(fault.NotFound, "%w", err)
	}
	for _, m := range d.All() {
		if m.Dev == dev {
			return m, nil
		}
	}
	return Drive{}, fault.New(fault.NotFound, "drive %s is not mounted", id)
}
