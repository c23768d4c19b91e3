package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/snapshot"
	"banger/internal/vmm"
)

// recover brings records and host together at start-up. Each record is settled (nothing to do), running (its machine is adopted), in
// between (a crash cut an operation off: what that made is taken away), or gone (its machine ended unseen). Then, and only because all
// records could be read, what carries a VM's id and has no record is removed.
//
// One VM's trouble never keeps the daemon from starting: it is logged, and the VM is broken.
func (m *Manager) recover(ctx context.Context) error {
	records, err := m.Store.VMs(ctx)
	if err != nil {
		return err
	}
	// An adoption or a clean-up that is cut off reads like one that failed, and its VM would be broken. All of it is bounded.
	ctx = context.WithoutCancel(ctx)
	entries := make([]*entry, len(records))
	for i, v := range records {
		entries[i] = &entry{vm: v}
		m.vms[v.ID] = entries[i]
	}
	for _, e := range entries { // not m.vms: adopted machines may end, and their VMs be deleted, from here on
		v := e.record()
		if err := m.recoverOne(ctx, e); err != nil {
			m.logger(v).ErrorContext(ctx, "recovering", "state", v.State, "error", err)
		}
	}
	if err := m.removeOrphans(ctx); err != nil {
		m.Log.ErrorContext(ctx, "removing what no record names", "error", err)
	}
	for _, dir := range []string{m.Layout.Templates(), m.Layout.Snapshots()} {
		if err := snapshot.CleanTemp(dir); err != nil {
			m.Log.ErrorContext(ctx, "removing unfinished snapshots", "error", err)
		}
	}
	m.observe(ctx)
	return nil
}

func (m *Manager) recoverOne(ctx context.Context, e *entry) error {
	if err := m.recoverRestore(ctx, e); err != nil { // the next operation tries again
		m.logger(e.record()).ErrorContext(ctx, "recovering", "error", err)
	}
	v := e.record()
	switch {
	case v.Spec.Remove == model.RemoveOnDetach, v.State == model.Creating, v.State == model.Deleting, unborn(v):
		// Whoever asked for it is gone with the daemon that served them, or wanted it gone.
		return m.discard(ctx, e)
	case v.State == model.Pausing, m.isHeld(v):
		return m.abandonPause(ctx, e)
	case v.State == model.Running, v.State == model.Paused:
		return m.adopt(ctx, e)
	case v.State == model.Starting:
		return m.abandonStart(ctx, e)
	case v.State == model.Suspended && v.Runtime != nil:
		return m.endSuspended(ctx, e)
	case v.State.Live():
		err := m.settle(ctx, e, nil)
		if err == nil {
			m.removeIfAsked(ctx, e)
		}
		return err
	case m.hasRunDir(v): // it had got a machine on standby, and no start
		return m.cleanup(ctx, e)
	case v.Started != nil:
		m.removeIfAsked(ctx, e) // it stopped, and the daemon died before it could delete it
	}
	return nil
}

// unborn tells whether a VM was to begin with another's memory, which is gone, and did not get as far. On its disks alone it would be another VM than
// was asked for.
func unborn(v model.VM) bool {
	return (v.State == model.Stopped || v.State == model.Starting) && v.Started == nil && v.Runtime != nil && v.Runtime.Fork
}

// recoverRestore completes a restore that was cut off, or takes away what is left of it when it did not get as far as the record.
func (m *Manager) recoverRestore(ctx context.Context, e *entry) error {
	v := e.record()
	if len(v.Restoring) > 0 {
		return m.finishRestore(ctx, e)
	}
	return removeAll(m.Layout.VM(v.ID).Restored())
}

// discard deletes a VM whatever its state.
func (m *Manager) discard(ctx context.Context, e *entry) error {
	if e.record().State != model.Creating && e.record().State != model.Deleting {
		// The table has no way from every state to deleting; a settled VM has.
		if e.record().State.Live() {
			if err := m.settle(ctx, e, nil); err != nil {
				return err
			}
		}
		return m.delete(ctx, e)
	}
	return m.remove(ctx, e)
}

// adopt finds the running VM's machine again, or settles the VM if it is gone.
func (m *Manager) adopt(ctx context.Context, e *entry) error {
	v := e.record()
	inst, err := m.Driver.Adopt(ctx, v.Runtime.State)
	if fault.KindOf(err) == fault.NotFound {
		err := m.settle(ctx, e, &model.Failure{
			Time: time.Now().UTC(), Msg: "the machine ended while no daemon was there to see it", Log: m.Layout.VM(v.ID).VMMLog(),
		})
		if err == nil {
			m.removeIfAsked(ctx, e)
		}
		return err
	}
	if err != nil {
		err = fmt.Errorf("looking for the VMM: %w", err)
		m.notAdopted(e, err)
		return err
	}
	e.setMachine(&live{inst: inst, agent: m.NewAgent(inst.DialAgent)})
	m.watch(e)
	m.logger(v).InfoContext(ctx, "adopted", "pid", inst.PID())
	return nil
}

// notAdopted shows a VM as broken whose machine may well run. What is stored stays: it is as true as before, and the next start-up, instead of
// taking away what is broken, looks for the machine again.
func (m *Manager) notAdopted(e *entry, cause error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.vm.State = model.Broken
	e.vm.LastError = m.failure(e.vm, cause)
	e.vm.LastError.Hint = "its machine may well run: banger looks again when the daemon starts; stopping or deleting the VM ends it"
}

// abandonPause lets a VM go on whose pausing or suspending was cut off, or that was being saved for a fork or a snapshot.
func (m *Manager) abandonPause(ctx context.Context, e *entry) error {
	if err := errors.Join(removeAll(m.Layout.VM(e.record().ID).Suspended()), m.removeUnfinished(e)); err != nil {
		return err
	}
	if err := m.adopt(ctx, e); err != nil || e.machine() == nil {
		return err
	}
	return m.callOffPause(ctx, e)
}

// callOffPause makes a VM run that is between running and paused or suspended. One whose guest does not go on is paused, so that nothing is lost: it can
// be resumed when the cause is gone. One whose machine does not go on is stopped.
func (m *Manager) callOffPause(ctx context.Context, e *entry) error {
	v := e.record()
	if err := m.resumeMachine(ctx, e); err != nil {
		return errors.Join(fmt.Errorf("letting it go on: %w", err), m.settle(ctx, e, m.failure(v, err)))
	}
	thawErr := m.thaw(ctx, e)
	err := removeAll(m.Layout.VM(v.ID).Held())
	if thawErr == nil {
		return errors.Join(err, m.update(ctx, e, func(v *model.VM) { v.State = model.Running }))
	}
	failure := m.failure(v, thawErr)
	failure.Hint = "`banger resume " + v.Spec.Name + "` tries again"
	for _, state := range []model.State{model.Pausing, model.Paused} {
		err = errors.Join(err, m.update(ctx, e, func(v *model.VM) { v.State, v.LastError = state, failure }))
	}
	return errors.Join(thawErr, err)
}

// abandonStart takes away what a start made before the daemon died in the middle of it. A VM that was to go on from its memory can still do so if
// its guest has changed nothing since.
func (m *Manager) abandonStart(ctx context.Context, e *entry) error {
	if err := m.cleanup(ctx, e); err != nil {
		return errors.Join(err, m.markBroken(ctx, e, err))
	}
	suspended := m.memoryIsCurrent(ctx, e.record())
	if !suspended {
		if err := removeAll(m.Layout.VM(e.record().ID).Suspended()); err != nil {
			return err
		}
	}
	return m.update(ctx, e, func(v *model.VM) {
		v.State, v.Runtime = model.Failed, nil
		if suspended {
			v.State = model.Suspended
		}
		v.LastError = &model.Failure{
			Time: time.Now().UTC(), Msg: "the daemon ended in the middle of the start", Log: m.Layout.DaemonLog(),
			Hint: "start it again",
		}
	})
}

// removeOrphans removes files and machines that carry the id of a VM without a record.
func (m *Manager) removeOrphans(ctx context.Context) error {
	var errs []error
	for _, dir := range []string{filepath.Dir(m.Layout.VM("x").Run), m.Layout.VMs()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
			continue
		}
		for _, entry := range entries {
			if id := entry.Name(); model.IsID(id) && !m.has(id) {
				errs = append(errs, m.removeOrphan(ctx, id))
			}
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) has(id string) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.vms[id] != nil
}

func (m *Manager) removeOrphan(ctx context.Context, id string) error {
	files := m.Layout.VM(id)
	if f, ok := m.Driver.(vmm.Finder); ok {
		inst, err := f.Find(ctx, files.Run)
		if err == nil {
			err = m.endMachine(ctx, &entry{vm: model.VM{ID: id}, live: &live{inst: inst, agent: m.NewAgent(inst.DialAgent)}})
		}
		if err != nil && fault.KindOf(err) != fault.NotFound {
			return fmt.Errorf("ending the machine of %s, which no record names: %w", id, err)
		}
	}
	m.Log.WarnContext(ctx, "removing the files of a VM that has no record", "vm", id)
	return errors.Join(removeAll(files.Run), removeAll(files.Dir))
}
