package machine

import (
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
	"banger/internal/pace"
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
// the record of a user's VM is lost, the VM's directory is moved to the lost ones. It is
// idempotent.
func (h *Host) TearDown(ctx context.Context, r Remains) error {
	isUsers := vmdir.IsUsers(h.Layout.VM(r.ID))
	r.Fresh = r.Fresh && !isUsers
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

// CheckUnrecorded returns an error if one of the machines without a record runs and is a user's:
// then the database is older than the VM. TearDown would end the machine.
func (h *Host) CheckUnrecorded(ctx context.Context, ids []string) error {
	for _, id := range ids {
		c, err := vmdir.Read(h.Layout.VM(id), id)
		if err != nil || !vmdir.IsUp(c.VM) {
			continue
		}
		m, err := h.Adopt(ctx, id, c.VM.Runtime.Driver, c.VM.Runtime.State)
		switch fault.KindOf(err) {
		case fault.NotFound:
			continue
		case fault.WrongState: // another home's
			return err
		}
		if err == nil {
			err = m.Close()
		}
		return errors.Join(fault.New(fault.WrongState, "VM %s (%s) runs and has no record: the database is older than the VM", c.VM.Spec.Name, id).
			WithHint("Nothing was ended. If you have the newer database, put it back. Otherwise add the missing records: banger daemon recover"), err)
	}
	return nil
}

// End ends the machine if there is one, and waits until it is gone.
func (h *Host) End(ctx context.Context, r Remains) error {
	m, err := r.Machine, error(nil)
	if m == nil {
		if m, err = h.find(ctx, r); fault.KindOf(err) == fault.NotFound {
			return nil
		} else if err != nil {
			return fmt.Errorf("looking for the VMM: %w", err)
		}
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
	if r.Fresh {
		errs = append(errs, RemoveAll(files.SystemDisk()))
	}
	errs = append(errs, RemoveUnfinished(files.Dir))
	// last: while it exists, recovery knows what to look for
	errs = append(errs, h.removeRunDir(r.ID))
	return errors.Join(errs...)
}

// forget is the FactWriter of machines without a record.
func forget(context.Context, int, any) error { return nil }

// Adopt finds the machine with that id, which a driver's state describes. It returns
// fault.NotFound if the machine has ended, and fault.WrongState if it belongs to another home.
func (h *Host) Adopt(ctx context.Context, id, driver string, s vmm.State) (*Machine, error) {
	d, err := h.driver(driver)
	if err != nil {
		return nil, err
	}
	inst, err := d.Adopt(ctx, s, h.Layout.VM(id).Run)
	if err != nil {
		return nil, err
	}
	return h.machine(d, inst), nil
}

// find looks for a machine by its state, or by its run directory with every driver that can.
func (h *Host) find(ctx context.Context, r Remains) (*Machine, error) {
	if len(r.State) > 0 {
		return h.Adopt(ctx, r.ID, r.Driver, r.State)
	}
	for _, d := range h.Drivers.All() {
		f, ok := d.(vmm.Finder)
		if !ok {
			continue
		}
		inst, err := f.Find(ctx, h.Layout.VM(r.ID).Run)
		if err == nil {
			return h.machine(d, inst), nil
		}
		if fault.KindOf(err) != fault.NotFound {
			return nil, err
		}
	}
	return nil, fault.New(fault.NotFound, "no machine of %s exists", r.ID)
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
