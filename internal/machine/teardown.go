package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/pace"
	"banger/internal/paths"
	"banger/internal/vmdir"
	"banger/internal/vmm"
)

// Remains is what is known of a machine that is to be torn down.
type Remains struct {
	Subject
	Machine *Machine // nil: looked for
	// name of the driver that started it; "": the default one
	Driver string
	// of that driver; nil: looked for by run directory
	State vmm.State
	// capabilities that may hold something
	Prepared  []string
	StoreFact StoreFact // nil: without a record
}

// TearDown removes everything of a machine without a record, of which only the id may be known. If
// something in its directory may be a user's, the directory is moved to the lost ones. It is
// idempotent.
func (h *Host) TearDown(ctx context.Context, r Remains) error {
	isUsers := vmdir.IsUsers(h.Layout.VM(r.ID))
	r.Fresh = !isUsers
	if err := h.End(ctx, r); err != nil {
		return err
	}
	r.Prepared = h.Cleaners()
	if err := h.Release(ctx, r); err != nil {
		return err
	}
	if isUsers {
		to, err := vmdir.Lose(h.Layout, r.ID)
		h.Log.WarnContext(ctx, "moving the directory of a VM whose record is lost", "vm", r.ID, "to", to, "error", err)
		return err
	}
	return RemoveAll(h.Layout.VM(r.ID).Dir)
}

// IDs lists the machines that have a directory. Those without a record are template builds and
// machines on standby that a crash cut off, and VMs of users whose record is lost.
func (h *Host) IDs() (ids []string, _ error) {
	var errs []error
	for _, dir := range []string{filepath.Dir(h.Layout.VM("x").Run), h.Layout.VMs()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range entries {
			if id := e.Name(); model.IsID(id) && !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	return ids, errors.Join(errs...)
}

// CheckUnrecorded returns an error if one of the machines without a record runs, and has a copy of
// one or no directory: then the database, or all of the state, is older than the VM. TearDown would
// end the machine. By its mark, a machine may be known never to have had a record.
func (h *Host) CheckUnrecorded(ctx context.Context, ids []string) error {
	for _, id := range ids {
		files := h.Layout.VM(id)
		c, err := vmdir.Read(files, id)
		isGone := vmdir.IsMissing(files)
		if err != nil && (!isGone || vmdir.IsUnrecorded(files)) {
			continue
		}
		pid, err := h.look(ctx, id, cmp.Or(c.VM.Runtime, &model.Runtime{}))
		switch fault.KindOf(err) {
		case fault.NotFound:
			continue
		case fault.WrongState: // another home's
			return err
		}
		if isGone {
			return errors.Join(fault.New(fault.WrongState, "a machine (pid %d) runs whose directory %s was removed, or is missing in an older state directory that was put back", pid, files.Dir).
				WithHint("Nothing was ended. Put the directory back, and run: banger daemon recover. If you do not need the machine, end it: kill %d", pid), err)
		}
		return errors.Join(fault.New(fault.WrongState, "VM %s (%s) runs and has no record: the database is older than the VM", c.VM.Spec.Name, id).
			WithHint("Nothing was ended. If you have the newer database, put it back. Otherwise add the missing records: banger daemon recover"), err)
	}
	return nil
}

// look returns the pid of a machine's VMM. It leaves the machine as it is, if the driver can do
// that.
func (h *Host) look(ctx context.Context, id string, known *model.Runtime) (pid int, err error) {
	for _, d := range h.Drivers.All() {
		l, ok := d.(vmm.Looker)
		if !ok {
			continue
		}
		if pid, err = l.Look(ctx, h.Layout.VM(id).Run); fault.KindOf(err) != fault.NotFound {
			return pid, err
		}
	}
	m, err := h.Adopt(ctx, id, known.Driver, known.State)
	if err != nil {
		return 0, err
	}
	return m.Instance.PID(), m.Close()
}

// RemoveUnrecorded is TearDown for what a crash has left, or the loss of a record. It logs errors.
func (h *Host) RemoveUnrecorded(ctx context.Context, id string) {
	h.Log.WarnContext(ctx, "tearing down a machine that has no record", "vm", id)
	if err := h.TearDown(ctx, Remains{Subject: Subject{ID: id}}); err != nil {
		h.Log.ErrorContext(ctx, "tearing down a machine that has no record", "vm", id, "error", err)
	}
}

// CheckEnd fails if Host.End would: a machine may run that nobody can look for. Nothing is ended.
func CheckEnd(ctx context.Context, h *Host, r Remains) error {
	m, err := r.find(ctx, h)
	if m == nil || m == r.Machine {
		return err
	}
	return m.Close()
}

// find returns the machine; nil if there is none.
func (r Remains) find(ctx context.Context, h *Host) (*Machine, error) {
	if r.Machine != nil {
		return r.Machine, nil
	}
	// A machine whose monitor does not answer is adopted, too, and its end needs no monitor.
	looking, cancel := pace.Context(ctx, time.Second, "answer")
	defer cancel()
	m, err := h.Adopt(looking, r.ID, r.Driver, r.State)
	if fault.KindOf(err) == fault.NotFound {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("looking for the VMM: %w", err)
	}
	return m, nil
}

// End ends the machine if there is one, and waits until it is gone.
func (h *Host) End(ctx context.Context, r Remains) error {
	m, err := r.find(ctx, h)
	if m == nil {
		return err
	}
	if err = m.End(ctx); err != nil && r.Machine == nil {
		_ = m.Close() // whoever tries again looks for it again
	}
	return err
}

// Release removes what the run of a machine that has ended holds on the host, and its run
// directory. It is idempotent, continues past errors, and returns them joined.
func (h *Host) Release(ctx context.Context, r Remains) error {
	var errs []error
	for _, c := range slices.Backward(h.Capabilities) {
		if slices.Contains(r.Prepared, c.Name()) {
			req := CleanupRequest{Subject: r.Subject, StoreFact: forget}
			if r.StoreFact != nil {
				req.StoreFact = NewFactWriter(c.Name(), r.StoreFact)
			}
			errs = append(errs, h.clean(ctx, c, req))
		}
	}
	files := h.Layout.VM(r.ID)
	if r.isUnused(files) {
		errs = append(errs, RemoveAll(files.SystemDisk()))
	}
	errs = append(errs, RemoveUnfinished(files.Dir), dropMark(files))
	// last: while it exists, recovery knows what to look for
	errs = append(errs, h.removeRunDir(r.ID))
	return errors.Join(errs...)
}

// isUnused reports whether nothing on the subject's disks is a user's. Both the record and the
// directory must say so: see package vmdir.
func (s Subject) isUnused(files paths.VM) bool { return s.Fresh && vmdir.IsUnused(files) }

// dropMark removes the mark of unused disks that are gone: disks that are put there are used.
func dropMark(files paths.VM) error {
	if vmdir.HasDisk(files) {
		return nil
	}
	return vmdir.MarkUsed(files)
}

// forget is the FactWriter of machines without a record.
func forget(context.Context, int, any) error { return nil }

// Adopt finds the machine with that id: the one that a driver's state describes, or, because that
// may be of an earlier run, the one that the run directory leads to. It returns fault.NotFound if
// there is none, and fault.WrongState if it belongs to another home.
func (h *Host) Adopt(ctx context.Context, id, driver string, s vmm.State) (*Machine, error) {
	run := h.Layout.VM(id).Run
	if len(s) > 0 {
		d, err := h.driver(driver)
		if err != nil {
			return nil, err
		}
		inst, err := d.Adopt(ctx, s, run)
		if err == nil {
			return h.machine(d, inst), nil
		}
		if fault.KindOf(err) != fault.NotFound {
			return nil, err
		}
	}
	for _, d := range h.Drivers.All() {
		f, ok := d.(vmm.Finder)
		if !ok {
			continue
		}
		inst, err := f.Find(ctx, run)
		if err == nil {
			return h.machine(d, inst), nil
		}
		if fault.KindOf(err) != fault.NotFound {
			return nil, err
		}
	}
	return nil, fault.New(fault.NotFound, "no machine of %s exists", id)
}

// driver returns the named driver, or the default one for "".
func (h *Host) driver(name string) (vmm.Driver, error) {
	if name == "" {
		return h.Drivers.Default(), nil
	}
	return h.Drivers.Named(name)
}

// cleanTimeout is the nominal time for one capability's cleanup.
const cleanTimeout = 30 * time.Second

// clean cleans up one capability. A failure is logged with its name and returned.
func (h *Host) clean(ctx context.Context, c Capability, req CleanupRequest) error {
	cleaner, ok := c.(Cleaner)
	if !ok {
		return nil
	}
	req.Fresh = req.isUnused(h.Layout.VM(req.ID))
	ctx, cancel := pace.Context(ctx, cleanTimeout, "end of the cleanup")
	defer cancel()
	if err := cleaner.Cleanup(ctx, req); err != nil {
		h.Log.ErrorContext(ctx, "cleaning up", "vm", req.ID, "capability", c.Name(), "error", err)
		return fmt.Errorf("cleaning up %s: %w", c.Name(), err)
	}
	return nil
}

func (h *Host) removeRunDir(id string) error { return RemoveAll(h.Layout.VM(id).Run) }

// HasRunDir reports whether a run of the machine may have left something.
func (h *Host) HasRunDir(id string) bool { return disk.MayExist(h.Layout.VM(id).Run) }

// RemoveUnfinished removes the temporary files in a machine's directory. The caller sees to it that
// nobody is making one.
func RemoveUnfinished(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, f := range entries {
		if strings.HasPrefix(f.Name(), disk.TempPrefix) {
			err = errors.Join(err, RemoveAll(filepath.Join(dir, f.Name())))
		}
	}
	return err
}

// RemoveAll removes a file or directory. If it is gone already, or cannot exist because a parent is
// no directory, that is success.
func RemoveAll(path string) error {
	if err := os.RemoveAll(path); err != nil && !errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("removing what the machine has on the host: %w", err)
	}
	return nil
}
