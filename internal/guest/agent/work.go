package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/guest/agent/drive"
	"banger/internal/guest/agent/tree"
	"banger/internal/guest/agent/uevent"
	"banger/internal/guest/proto"
)

// stagingDir is where a drive is mounted while it is seeded.
const stagingDir = "/run/banger-staging"

// seedMark is an extended attribute of a seeded drive's root directory. Users do not see it, and
// setting it is atomic.
const (
	seedMark  = "trusted.banger.seed"
	seedBegun = "begun" // the drive holds a partial copy
	seedDone  = "done"
)

// lostFound is the directory that mkfs makes (mklost+found(8)).
const lostFound = "lost+found"

// mountWork mounts a drive at its target in the new root. If requested, it seeds the drive before.
func (a *agent) mountWork(m proto.Mount) error {
	target := path.Clean(m.Target)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("making %s: %w", target, err)
	}
	drive, err := a.mountDrive(m.Serial, stagingDir, m.Size)
	if err != nil {
		return err
	}
	if m.Seed {
		if err := seed(target, stagingDir); err != nil {
			return fmt.Errorf("seeding drive %s: %w", m.Serial, err)
		}
	}
	// The mount is bound and then unmounted, not moved: a mount below a shared one cannot be moved
	// (mount(2), EINVAL). Under systemd /run is shared.
	if err := unix.Mount(stagingDir, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting drive %s at %s: %w", m.Serial, target, err)
	}
	if err := unix.Unmount(stagingDir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("mounting drive %s at %s: %w", m.Serial, target, err)
	}
	if err := os.Remove(stagingDir); err != nil {
		return err
	}
	drive.Target = target
	a.addDrive(drive)
	return nil
}

// seed copies the image's files at from to a drive that was never used. It begins a copy again that
// a crash interrupted. It leaves a drive alone that holds anything else.
func seed(from, to string) error {
	mark := make([]byte, 16)
	n, err := unix.Getxattr(to, seedMark, mark)
	if err != nil && !errors.Is(err, unix.ENODATA) {
		return err
	}
	names, err := entries(to)
	if err != nil {
		return err
	}
	switch {
	case string(mark[:max(n, 0)]) == seedDone, string(mark[:max(n, 0)]) != seedBegun && len(names) > 0:
		return nil
	}
	if err := unix.Setxattr(to, seedMark, []byte(seedBegun), 0); err != nil {
		return err
	}
	for _, name := range names {
		if err := os.RemoveAll(path.Join(to, name)); err != nil {
			return err
		}
	}
	if err := tree.Copy(from, to, lostFound); err != nil {
		return err
	}
	// It would only be in the way in a home directory. e2fsck makes it again when it needs it.
	os.Remove(path.Join(to, lostFound))
	return unix.Setxattr(to, seedMark, []byte(seedDone), 0)
}

// entries lists a directory without lost+found.
func entries(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	rest := names[:0]
	for _, name := range names {
		if name != lostFound {
			rest = append(rest, name)
		}
	}
	return rest, nil
}

// isMounted reports whether a fork has a drive mounted at the target. The drive's id may have
// changed.
func (a *agent) isMounted(m proto.Mount) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(a.drives, func(d mounted) bool { return d.Target == path.Clean(m.Target) })
}

func (a *agent) addDrive(m *mounted) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drives = append(a.drives, *m)
}

// growTime bounds waiting for the kernel to see a drive's new size.
const growTime = 10 * time.Second

// growDrive grows the file system on a mounted drive to the drive's size. It first waits until the
// drive has size bytes.
func (a *agent) growDrive(ctx context.Context, serial string, size int64) error {
	m, err := a.mountedDrive(serial)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, growTime)
	defer cancel()
	if err := awaitSize(ctx, m.Dev, size); err != nil {
		return err
	}
	_, err = drive.Grow(m.Dev, m.root)
	return err
}

// mountedDrive finds a mounted drive by the id that it has now. A fork's drives may have other ids
// than the parent's.
func (a *agent) mountedDrive(id string) (mounted, error) {
	dev, err := drive.Find(id)
	if err != nil {
		return mounted{}, fault.New(fault.NotFound, "%w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.IndexFunc(a.drives, func(m mounted) bool { return m.Dev == dev })
	if i < 0 {
		return mounted{}, fault.New(fault.NotFound, "drive %s is not mounted", id)
	}
	return a.drives[i], nil
}

// awaitSize waits until a device has that size. A uevent announces the change (genhd.c,
// set_capacity_and_notify).
func awaitSize(ctx context.Context, dev string, size int64) error {
	events, err := uevent.Open()
	if err != nil {
		return err
	}
	defer events.Close()
	for {
		has, err := drive.Size(dev)
		if err != nil || has >= size {
			return err
		}
		if err := events.Wait(ctx); err != nil {
			return fault.New(fault.Unavailable, "drive %s has %d of %d bytes: %w", dev, has, size, err)
		}
	}
}
