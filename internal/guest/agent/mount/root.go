package mount

import (
	"context"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/drive"
	"banger/internal/guest/agent/tree"
	"banger/internal/guest/proto"
)

// Directories in the initramfs while the root is being built.
const (
	imageDir  = "/image"
	systemDir = "/system"
	rootDir   = "/newroot"
)

// Directories on the system disk.
const (
	upperDir   = systemDir + "/upper"   // the overlay's writable layer
	workDir    = systemDir + "/work"    // the overlay's own
	volumesDir = systemDir + "/volumes" // see volumes
)

// volumes are directories that cannot be on an overlay, because their programs make overlays in
// them. They get a directory of the system disk instead.
var volumes = []struct{ name, target string }{
	{"docker", "/var/lib/docker"},
	{"containerd", "/var/lib/containerd"},
}

const (
	// noload: the image is always read-only, so there is no journal to replay into it.
	imageOptions = "noload"
	// redirect_dir and metacopy: renaming a directory or changing an owner copies no data up. index
	// stays off, because it refuses an upper layer whose lower layer is another copy of the image.
	overlayOptions = "lowerdir=" + imageDir + ",upperdir=" + upperDir + ",workdir=" + workDir +
		",redirect_dir=on,metacopy=on,index=off"
)

// Root joins image and system disk, moves into the result and frees the initramfs. It adds the
// system disk to drives. It holds spawn while paths change their meaning.
func Root(spec proto.Root, drives *Drives, spawn sync.Locker) error {
	dev, err := drive.Open(context.Background(), spec.Image, spec.ImageSize)
	if err != nil {
		return err
	}
	if err := drive.DropCache(dev); err != nil {
		return err
	}
	if err := mountOne(mount{dev, imageDir, "ext4", unix.MS_RDONLY, imageOptions}); err != nil {
		return err
	}
	system, err := mountDrive(spec.System, systemDir, spec.SystemSize)
	if err != nil {
		return err
	}
	drives.add(system)
	if err := makeUpper(); err != nil {
		return err
	}
	if unix.Mkdirat(int(system.Root.Fd()), spareDir, 0o700) == nil {
		makeSpares(system.Root)
	}
	if err := mountOverlay(); err != nil {
		return err
	}
	if err := bindVolumes(); err != nil {
		return err
	}
	spawn.Lock()
	err = switchRoot()
	spawn.Unlock()
	if err != nil {
		return err
	}
	return linkDevices()
}

// makeUpper makes the directories that the overlay needs. The overlay takes the root's attributes
// from the upper layer, so makeUpper copies them from the image.
func makeUpper() error {
	var st unix.Stat_t
	if err := unix.Stat(imageDir, &st); err != nil {
		return fmt.Errorf("reading the image's root: %w", err)
	}
	if err := os.Mkdir(upperDir, 0o755); err == nil {
		if err := os.Chown(upperDir, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
		if err := unix.Chmod(upperDir, st.Mode&0o7777); err != nil {
			return fmt.Errorf("setting the mode of the root: %w", err)
		}
	} else if !os.IsExist(err) {
		return err
	}
	for _, dir := range []string{workDir, volumesDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// mountOverlay joins image and system disk. If the work directory cannot be made, the kernel mounts
// the overlay read-only and reports no error.
func mountOverlay() error {
	if err := mountOne(mount{"overlay", rootDir, "overlay", 0, overlayOptions}); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(rootDir, &st); err != nil {
		return fmt.Errorf("looking at the overlay: %w", err)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return fmt.Errorf("mounting the overlay: no room for its work directory: %w", unix.ENOSPC)
	}
	return nil
}

// bindVolumes mounts the volumes. A new one starts with the image's files. It skips targets that
// are links or are below links: at this point they would lead out of the new root.
func bindVolumes() error {
	for _, v := range volumes {
		target := rootDir + v.target
		if !onlyDirectories(rootDir, v.target) {
			continue
		}
		if err := os.MkdirAll(target, 0o711); err != nil {
			return fmt.Errorf("making %s: %w", v.target, err)
		}
		source := volumesDir + "/" + v.name
		if err := fillVolume(target, source); err != nil {
			return err
		}
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("binding %s: %w", v.target, err)
		}
	}
	return nil
}

// fillVolume fills a volume under a temporary name, so that a crash leaves no partial volume.
func fillVolume(from, to string) error {
	if _, err := os.Lstat(to); err == nil {
		return nil
	}
	part := to + ".part"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	if err := os.Mkdir(part, 0o711); err != nil {
		return err
	}
	if err := tree.Copy(from, part); err != nil {
		return err
	}
	return os.Rename(part, to)
}

// switchRoot makes rootDir the root of this process and its children, and frees the initramfs's
// memory.
func switchRoot() error {
	old, err := os.Open("/")
	if err != nil {
		return err
	}
	defer old.Close()
	for _, m := range kernelMounts {
		unix.Unmount(m.target, unix.MNT_DETACH)
	}
	// The overlay keeps its layers. Without their mount points, nobody can write past the overlay.
	for _, dir := range []string{imageDir, systemDir} {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("hiding %s: %w", dir, err)
		}
	}
	if err := os.Chdir(rootDir); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := mountAll(rootMounts); err != nil {
		return err
	}
	return emptyInitramfs(old)
}
