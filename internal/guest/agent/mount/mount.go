// Package mount builds the root file system of the guest and mounts its drives.
//
// The agent calls Kernel in the initramfs and Root once, with the first identity. Afterwards "/" is
// an overlay of the image and the system disk, and the initramfs is empty. Other drives are mounted
// with Drives.Mount.
//
// # Full disks
//
// A guest may fill its disks to the last block and the last inode. A start must work all the same:
// the overlay makes a directory in its work directory, and files of the identity are written. For
// this time Drives.LendReserves lends two reserves:
//
//   - ext4 never gives the last 16 MB to programs, not even to root's (fs/ext4/super.c,
//     ext4_set_resv_clusters). The kernel lets root change this number while it runs.
//   - The system disk has some empty files, whose inodes become free.
package mount

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mount is one mount of a plan.
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// kernelMounts are the mounts that the agent itself needs in the initramfs.
var kernelMounts = []mount{
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=755"},
	{"proc", "/proc", "proc", quiet, ""},
	{"sysfs", "/sys", "sysfs", quiet, ""},
}

// rootMounts are the mounts that programs expect in a root file system (systemd.io,
// API_FILE_SYSTEMS). /tmp stays as the image has it.
var rootMounts = []mount{
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=755"},
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
	{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"proc", "/proc", "proc", quiet, ""},
	{"sysfs", "/sys", "sysfs", quiet, ""},
	{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
}

// cgroupMounts is for machines without an init, which would mount it.
var cgroupMounts = []mount{
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", quiet, "nsdelegate"},
}

// Kernel mounts the kernel's file systems in the initramfs.
func Kernel() error { return mountAll(kernelMounts) }

// ControlGroups mounts the control groups.
func ControlGroups() error { return mountAll(cgroupMounts) }

// mountAll mounts in order. It makes missing targets.
func mountAll(mounts []mount) error {
	for _, m := range mounts {
		if err := mountOne(m); err != nil {
			return err
		}
	}
	return nil
}

func mountOne(m mount) error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return fmt.Errorf("mounting %s: %w", m.target, err)
	}
	if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", m.fstype, m.target, err)
	}
	return nil
}

// devLinks are links in /dev that udev makes and devtmpfs does not.
var devLinks = [][2]string{
	{"/proc/self/fd", "/dev/fd"},
	{"/proc/self/fd/0", "/dev/stdin"},
	{"/proc/self/fd/1", "/dev/stdout"},
	{"/proc/self/fd/2", "/dev/stderr"},
}

func linkDevices() error {
	for _, l := range devLinks {
		if err := os.Symlink(l[0], l[1]); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("making %s: %w", l[1], err)
		}
	}
	return nil
}
