package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/pace"
	"banger/internal/paths"
	"banger/internal/vmdir"
	"banger/internal/vmm"
)

// openTimeout is the nominal time for a look at the disks of a machine.
const openTimeout = 10 * time.Second

// CheckOpen fails with fault.Damaged if the path of one of a machine's disks leads to another file
// than the VMM has open, or to none: what the guest writes is then lost with the machine. If their
// file system does not answer, it fails with fault.Unavailable. If nobody can tell, it succeeds.
func (h *Host) CheckOpen(ctx context.Context, s Subject, m *Machine) error {
	holder, ok := m.Instance.(vmm.FileHolder)
	if !ok {
		return nil
	}
	ctx, cancel := pace.Context(ctx, openTimeout, "answer from the file system of its disks")
	defer cancel()
	_, release, err := m.look.Acquire(ctx, "look")
	if err != nil {
		return noAnswer(s.Spec.Name, err)
	}
	looked := make(chan error, 1)
	go func() { // it may never end: there is one at most for each machine
		defer release()
		looked <- checkOpen(context.WithoutCancel(ctx), h, s, m.Instance.PID(), holder)
	}()
	select {
	case err := <-looked:
		return err
	case <-ctx.Done():
		return noAnswer(s.Spec.Name, context.Cause(ctx))
	}
}

// IsLookedAt reports whether a look at the machine's disks is under way.
func (m *Machine) IsLookedAt() bool { return m.look.Busy() }

// noAnswer is the error of a look that takes too long, or whose caller is gone.
func noAnswer(vm string, why error) error {
	return fault.New(fault.KindOf(why), "looking whether the disks of VM %s are those that it has open: %w", vm, why).
		WithHint("If its directory is on a network, see whether the server answers. `banger vm kill %s` ends the VM.", vm)
}

// checkOpen is CheckOpen without a bound. A copy of another file would not fit the memory.
func checkOpen(ctx context.Context, h *Host, s Subject, pid int, holder vmm.FileHolder) error {
	described, err := h.Describe(ctx, s, Parts{})
	if err != nil {
		h.Log.DebugContext(ctx, "looking at the disks of a machine", "vm", s.ID, "error", err)
		return nil
	}
	var paths []string
	for _, d := range described.Drives {
		if !d.ReadOnly {
			paths = append(paths, d.Path)
		}
	}
	others, err := holder.Others(paths...)
	if err != nil {
		h.Log.DebugContext(ctx, "looking at the disks of a machine", "vm", s.ID, "error", err)
	}
	for _, path := range paths {
		if other, is := others[path]; is {
			return replaced(path, other, s.Spec.Name, pid)
		}
	}
	return nil
}

// replaced is the error of a disk whose VMM has another file open.
func replaced(path, other, vm string, pid int) error {
	what := "was removed"
	if disk.MayExist(path) {
		what = "is another file than the VM has"
	}
	keep := "copy it out of the VM"
	if other != "" {
		keep += fmt.Sprintf(", or pause the VM and copy %s", other)
	}
	return fault.New(fault.Damaged, "the disk %s %s: what VM %s writes is only in the file that its VMM (pid %d) has open, and is lost when the VM ends", path, what, vm, pid).
		WithHint("If you moved the file away, move it back. To keep what the VM has: %s. `banger vm kill %s` then ends the VM, and its next start uses the files that are there.", keep, vm)
}

// MeasureDisks returns the lengths of disks by name. It leaves out disks that cannot be looked at.
func MeasureDisks(disks map[string]string) map[string]model.Bytes {
	lengths := map[string]model.Bytes{}
	for name, path := range disks {
		if info, err := os.Stat(path); err == nil {
			lengths[name] = model.Bytes(info.Size())
		}
	}
	return lengths
}

// checkDisks fails if a disk that the subject has had is missing, is shorter than it was, or cannot
// be used. A new disk in its place would look as if the user's files had never been there.
func checkDisks(files paths.VM, s Subject) error {
	if err := CheckDir(files, s.Spec.Name); err != nil {
		return err
	}
	for name, path := range DiskPaths(files) {
		length, had := s.Disks[name]
		if name == SystemDisk && s.DiskImage != s.Spec.ImageID {
			had = false // this start makes another one
		}
		if !had {
			continue
		}
		if err := checkDisk(name, path, length, s.Spec.Name); err != nil {
			return err
		}
	}
	return nil
}

// CheckDir fails if a VM's directory is missing.
func CheckDir(files paths.VM, vm string) error {
	if vmdir.IsMissing(files) {
		return fault.New(fault.Damaged, "the VM's directory %s is missing", files.Dir).
			WithHint("Put the directory back with all files in it. If it is lost, delete the VM: `banger vm delete %s`", vm)
	}
	return nil
}

func checkDisk(name, path string, length model.Bytes, vm string) error {
	putBack := func(f *fault.Error) error {
		return f.WithHint("Put the file back as it was, or restore a snapshot with `banger vm restore`. If the disk is lost, delete the VM: `banger vm delete %s`", vm)
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return putBack(fault.New(fault.Damaged, "the %s disk %s is missing", name, path))
	case err != nil:
		return fault.New(fault.Denied, "looking at the %s disk: %w", name, err)
	case !info.Mode().IsRegular():
		return putBack(fault.New(fault.Damaged, "the %s disk %s is not a regular file", name, path))
	case model.Bytes(info.Size()) < length:
		return putBack(fault.New(fault.Damaged, "the %s disk %s is cut off: it has %d bytes and had %d at the last start", name, path, info.Size(), length))
	}
	err = unix.Faccessat(unix.AT_FDCWD, path, unix.R_OK|unix.W_OK, unix.AT_EACCESS)
	if err == nil && info.Mode().Perm()&0o600 != 0o600 { // root may; its VMMs may not
		err = unix.EACCES
	}
	if err != nil {
		owner := info.Sys().(*syscall.Stat_t).Uid // os.Stat returns this type on Linux
		return fault.New(fault.Denied, "the %s disk %s cannot be read and written by user %d: it belongs to user %d and has mode %v: %w",
			name, path, os.Geteuid(), owner, info.Mode(), err).WithHint("As user %d: chmod 600 %s", owner, path)
	}
	return nil
}
