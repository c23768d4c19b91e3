package mount

import (
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/tree"
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

// Mount mounts a drive at its target in the new root. If requested, it seeds the drive before.
func (d *Drives) Mount(m proto.Mount) error {
	target := path.Clean(m.Target)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("making %s: %w", target, err)
	}
	work, err := mountDrive(m.Serial, stagingDir, m.Size)
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
	work.Target = target
	d.add(work)
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
