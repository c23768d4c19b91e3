package vmdir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"banger/internal/disk"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/regular"
)

// MarkUnused notes that nothing in a directory is a user's: see the package comment. The mark is
// empty, so that it needs no block of a full disk.
func MarkUnused(files paths.VM) error {
	if err := regular.Write(files.Unused(), nil, 0o600); err != nil {
		return fmt.Errorf("noting that a VM's disks are new: %w", err)
	}
	return nil
}

// MarkUsed removes the mark. A missing one is success.
func MarkUsed(files paths.VM) error {
	if err := os.Remove(files.Unused()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("noting that a VM's disks are in use: %w", err)
	}
	return nil
}

// IsUnused reports whether a directory has the mark. In doubt it has none.
func IsUnused(files paths.VM) bool {
	_, err := os.Lstat(files.Unused())
	return err == nil
}

// MarkUnrecorded notes in a run directory that its machine has no record: no VM is lost with it.
func MarkUnrecorded(files paths.VM) error {
	if err := regular.Write(files.Unrecorded(), nil, 0o600); err != nil {
		return fmt.Errorf("noting that a machine has no record: %w", err)
	}
	return nil
}

// MarkRecorded removes the mark. A missing one is success.
func MarkRecorded(files paths.VM) error {
	if err := os.Remove(files.Unrecorded()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("noting that a machine has a record: %w", err)
	}
	return nil
}

// IsUnrecorded reports whether a run directory has the mark. In doubt it has none.
func IsUnrecorded(files paths.VM) bool {
	_, err := os.Lstat(files.Unrecorded())
	return err == nil
}

// HasDisk reports whether a directory has, or may have, a disk.
func HasDisk(files paths.VM) bool {
	return disk.MayExist(files.SystemDisk()) || disk.MayExist(files.WorkDisk())
}

// HasCopy reports whether a directory has, or may have, a copy of a record.
func HasCopy(files paths.VM) bool { return disk.MayExist(files.Record()) }

// IsUsers reports whether something in a directory is, or may be, a user's: a copy of a record, or
// a disk without the mark. A symbolic link is: banger makes none, and its target may be on a disk
// that is not mounted now.
func IsUsers(files paths.VM) bool {
	info, err := os.Lstat(files.Dir)
	isLink := err == nil && info.Mode().Type() == fs.ModeSymlink
	return isLink || HasCopy(files) || HasDisk(files) && !IsUnused(files)
}

// HasBegun reports whether a fork may have been up although its record says that it never was. An
// earlier version set no marks, so its disks prove nothing: its records have revision 1. A fork of
// this version that has its disks has a higher one.
func HasBegun(v model.VM, files paths.VM) bool {
	return HasCopy(files) || v.Revision > 1 && IsUsers(files)
}
