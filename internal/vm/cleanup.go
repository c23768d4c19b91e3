package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
)

// cleanup takes away everything that a run of the VM made on the host: the machine, what capabilities prepared, the run folder. It is
// idempotent and finds anything from nothing to all of it. The caller holds the operation lock.
//
// A machine that will not end keeps the rest: taking disks and network from under a running VMM would be worse than a
// leak that the record still leads to. Otherwise it goes on past errors and returns them joined.
func (m *Manager) cleanup(ctx context.Context, e *entry) error {
	if err := m.endMachine(ctx, e); err != nil {
		return err
	}
	v := e.record()
	var prepared []string
	switch {
	case v.Runtime != nil:
		prepared = v.Runtime.Prepared
	case m.hasRunDir(v): // that of a machine on standby, which the record does not tell of yet
		prepared = m.cleaners()
	}
	var errs []error
	for i := len(m.Capabilities) - 1; i >= 0; i-- {
		c := m.Capabilities[i]
		if slices.Contains(prepared, c.Name()) {
			errs = append(errs, m.cleanCapability(ctx, e, c))
		}
	}
	errs = append(errs, m.removeFreshDisk(e))
	errs = append(errs, m.removeUnfinished(e))
	errs = append(errs, m.removeRunDir(e)) // last: while it is there, recovery knows whom to look for
	return errors.Join(errs...)
}

// endMachine ends the VM's VMM, if there is one, and waits until it is gone.
func (m *Manager) endMachine(ctx context.Context, e *entry) error {
	l := e.machine()
	if l == nil {
		inst, err := m.lookFor(ctx, e.record())
		if fault.KindOf(err) == fault.NotFound {
			return nil
		}
		if err != nil {
			return fmt.Errorf("looking for the VMM: %w", err)
		}
		l = &live{inst: inst, agent: m.NewAgent(inst.DialAgent)}
	}
	if err := l.inst.Signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("ending the VMM: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	if _, err := l.inst.Wait(ctx); err != nil {
		return fmt.Errorf("waiting for the VMM (pid %d) to end: %w", l.inst.PID(), err)
	}
	e.setMachine(nil)
	return errors.Join(l.agent.Close(), l.inst.Close())
}

// lookFor finds a VM's machine. One that was on standby before the VM had a record is found by its run folder only.
func (m *Manager) lookFor(ctx context.Context, v model.VM) (vmm.Instance, error) {
	if v.Runtime != nil && len(v.Runtime.State) > 0 {
		return m.Driver.Adopt(ctx, v.Runtime.State)
	}
	if f, ok := m.Driver.(vmm.Finder); ok {
		return f.Find(ctx, m.Layout.VM(v.ID).Run)
	}
	return nil, fault.New(fault.NotFound, "no machine was ever intended")
}

// cleanCapability cleans up one capability. Its failure is logged with its name as well as returned.
func (m *Manager) cleanCapability(ctx context.Context, e *entry, c Capability) error {
	cleaner, ok := c.(Cleaner)
	if !ok {
		return nil
	}
	v := e.record()
	if err := cleaner.Cleanup(ctx, CleanupRequest{VM: v}); err != nil {
		m.logger(v).ErrorContext(ctx, "cleaning up", "capability", c.Name(), "error", err)
		return fmt.Errorf("cleaning up %s: %w", c.Name(), err)
	}
	return nil
}

// removeFreshDisk removes a system disk with nothing of the user's on it.
func (m *Manager) removeFreshDisk(e *entry) error {
	v := e.record()
	if !v.Fresh() {
		return nil
	}
	return removeAll(m.Layout.VM(v.ID).SystemDisk())
}

// removeUnfinished removes the files that something cut off was making: whoever makes one has the operation lock, so nobody is at it now.
func (m *Manager) removeUnfinished(e *entry) error {
	dir := m.Layout.VM(e.record().ID).Dir
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, f := range entries {
		if strings.HasPrefix(f.Name(), disk.TempPrefix) {
			err = errors.Join(err, removeAll(filepath.Join(dir, f.Name())))
		}
	}
	return err
}

func (m *Manager) hasRunDir(v model.VM) bool {
	_, err := os.Stat(m.Layout.VM(v.ID).Run)
	return err == nil
}

func (m *Manager) removeRunDir(e *entry) error {
	return removeAll(m.Layout.VM(e.record().ID).Run)
}

// settle brings a VM whose machine has ended, or must end, to rest: stopped when everything could be taken away, broken when not. why is
// recorded as its last error when it is not nil.
func (m *Manager) settle(ctx context.Context, e *entry, why *model.Failure) error {
	ctx = context.WithoutCancel(ctx)
	if err := m.cleanup(ctx, e); err != nil {
		return errors.Join(err, m.markBroken(ctx, e, err))
	}
	if err := removeAll(m.Layout.VM(e.record().ID).Suspended()); err != nil { // memory without the machine that it was of
		return errors.Join(err, m.markBroken(ctx, e, err))
	}
	now := time.Now().UTC()
	return m.update(ctx, e, func(v *model.VM) {
		if v.State == model.Broken && v.LastError != nil { // it still says what went wrong, but there is nothing left to do about it
			told := *v.LastError
			told.Hint = ""
			v.LastError = &told
		}
		if v.State != model.Stopped && v.State != model.Failed {
			v.State = model.Stopped
			v.Stopped = &now
		}
		v.Runtime, v.Network, v.Pending = nil, nil, nil
		if why != nil {
			v.LastError = why
		}
	})
}

// settleUnrecorded brings a VM to rest whose last operation, or whose machine's end, could not be recorded: the disk was full. While the operation
// lock is held nothing else leaves a VM in between, or running without a machine. One that was to be paused or suspended runs again.
func (m *Manager) settleUnrecorded(ctx context.Context, e *entry) error {
	v := e.record()
	switch v.State {
	case model.Creating, model.Deleting: // all that is left is to delete it
		return nil
	case model.Running, model.Paused:
		if e.machine() != nil {
			return nil
		}
	default:
		if !v.State.Between() {
			return nil
		}
	}
	if m.life.Err() != nil { // Close let go of a machine that is well
		return fault.New(fault.Unavailable, "VM %s: the daemon is ending", v.Spec.Name)
	}
	m.logger(v).WarnContext(ctx, "settling a VM whose last operation could not record its end", "state", v.State)
	if v.State == model.Pausing && e.machine() != nil { // which is as well as before
		return m.callOffPause(context.WithoutCancel(ctx), e)
	}
	return m.settle(ctx, e, nil)
}

// retryAfter is how long a clean-up that failed rests before it is tried again.
const retryAfter = 30 * time.Second

// watchLeftovers tries failed clean-ups again until ctx ends.
func (m *Manager) watchLeftovers(ctx context.Context) {
	look := time.NewTicker(retryAfter)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			m.retryCleanups(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// retryCleanups takes away what suspended VMs have left, and what is left of deleted ones.
func (m *Manager) retryCleanups(ctx context.Context) {
	m.removeUnwanted(ctx)
	leftover := func(e *entry) bool {
		v := e.record()
		return v.State == model.Suspended && v.Runtime != nil
	}
	m.retry(ctx, leftover, func(ctx context.Context, e *entry) {
		if err := m.endSuspended(ctx, e); err != nil {
			m.logger(e.record()).WarnContext(ctx, "taking away what a suspended VM left", "error", err)
		}
	})
}

// removeUnwanted tries again to delete the VMs whose deletion could not be recorded. The caller holds no operation lock.
func (m *Manager) removeUnwanted(ctx context.Context) {
	m.retry(ctx, (*entry).isUnwanted, func(ctx context.Context, e *entry) {
		if m.remove(ctx, e) == nil { // else it was logged when it failed first
			m.observe(ctx)
		}
	})
}

// retry does something about each VM that needs it.
func (m *Manager) retry(ctx context.Context, needed func(*entry) bool, do func(context.Context, *entry)) {
	for _, e := range m.entries() {
		if !needed(e) {
			continue
		}
		opCtx, release, err := e.lock.acquire(ctx, "settle")
		if err != nil {
			continue // deleted, or Close
		}
		if needed(e) {
			do(context.WithoutCancel(opCtx), e)
		}
		release()
	}
}

func (e *entry) isUnwanted() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.unwanted
}

func (m *Manager) entries() []*entry {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Collect(maps.Values(m.vms))
}

func (m *Manager) markBroken(ctx context.Context, e *entry, cause error) error {
	return m.update(ctx, e, func(v *model.VM) {
		v.State = model.Broken
		v.LastError = m.failure(*v, cause)
		v.LastError.Hint = "banger tries again when it is deleted or the daemon starts"
	})
}

// remove deletes a VM for good: what its run made, its files, its record. The caller holds the operation lock. When something stays, so does the
// record.
func (m *Manager) remove(ctx context.Context, e *entry) error {
	id := e.record().ID
	err := m.cleanup(ctx, e)
	if err == nil {
		err = removeAll(m.Layout.VM(id).Dir)
	}
	if err != nil {
		if e.record().State.May(model.Broken) { // else the disk is so full that not even the beginning could be recorded
			brokenErr := m.markBroken(ctx, e, err)
			if brokenErr == nil {
				return err
			}
			err = errors.Join(err, brokenErr)
		}
		m.setUnwanted(ctx, e, err)
		return err
	}
	if err := m.Store.DeleteVM(ctx, id); err != nil {
		m.setUnwanted(ctx, e, err)
		return err
	}
	m.forget(e)
	m.Log.InfoContext(ctx, "deleted", "vm", id)
	return nil
}

// setUnwanted shows a VM as being deleted whose end cannot be recorded, as a rule because the host's disk is full. Nobody has to delete it again: that is tried
// when there may be room. (What is stored stays what it was; start-up goes on from that.)
func (m *Manager) setUnwanted(ctx context.Context, e *entry, cause error) {
	e.mu.Lock()
	known := e.unwanted
	e.unwanted = true
	e.vm.State = model.Deleting
	e.vm.LastError = m.failure(e.vm, cause)
	e.vm.LastError.Hint = "banger tries again by itself"
	v := e.vm
	e.mu.Unlock()
	if !known {
		m.logger(v).ErrorContext(ctx, "deleting a VM could not be recorded; it is tried again", "error", cause)
	}
}

// removeAll removes a file or folder; one that is gone already, or cannot be because a parent of it is no folder, is success.
func removeAll(path string) error {
	if err := os.RemoveAll(path); err != nil && !errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("removing what the VM has on the host: %w", err)
	}
	return nil
}
