package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/snapshot"
	"banger/internal/vm/moment"
)

// recovery brings records and host together at start-up: see docs/internals/recovery.md. After all
// records could be read, machines without a record are torn down. One VM's trouble never keeps the
// daemon from starting: it is logged, and the VM is broken.
type recovery struct{ *core }

func (r recovery) run(ctx context.Context) error {
	stored, err := r.Store.VMs(ctx)
	if err != nil {
		return err
	}
	// An adoption or a cleanup that is cut off reads like one that failed. All of it is bounded.
	ctx = context.WithoutCancel(ctx)
	entries := make([]*entry, len(stored))
	for i, v := range stored {
		entries[i] = &entry{vm: v, recovering: true}
		r.records.adopt(entries[i])
	}
	// Now: soon there are machines without a record that are none of a crash.
	orphans, err := r.orphans()
	if err != nil {
		r.Log.ErrorContext(ctx, "looking for what no record names", "error", err)
	}
	if err := r.host.CheckUnrecorded(ctx, orphans); err != nil {
		return err
	}
	for _, dir := range []string{r.Layout.Templates(), r.Layout.Snapshots()} {
		if err := snapshot.CleanTemp(dir); err != nil {
			r.Log.ErrorContext(ctx, "removing unfinished snapshots", "error", err)
		}
	}
	r.inBackground(ctx, entries, orphans)
	return nil
}

// sideBySide is how many VMs are recovered at a time. Most of the time is spent waiting for VMMs.
const sideBySide = 32

// inBackground recovers VMs side by side, and removes orphans. It returns when all is done, and no
// later than RecoverTimeout: a VMM that does not answer keeps nobody from the other VMs. Before it
// returns, the operation lock of each VM that is not settled is held.
func (r recovery) inBackground(ctx context.Context, entries []*entry, orphans []string) {
	slots := make(chan struct{}, sideBySide)
	within := func(do func()) {
		slots <- struct{}{}
		defer func() { <-slots }()
		do()
	}
	var locked, all sync.WaitGroup
	for _, e := range entries {
		v := e.record()
		locked.Add(1)
		all.Go(func() {
			_, err := operateOn(ctx, r.core, e, opSettle, func(ctx context.Context, op *operation) (_ any, err error) {
				defer e.recovered()
				locked.Done()
				within(func() { err = r.one(ctx, op) })
				return nil, err
			})
			if err != nil {
				r.logger(v).ErrorContext(ctx, "recovering", "state", v.State, "error", err)
			}
		})
	}
	for _, id := range orphans {
		all.Go(func() { within(func() { r.removeOrphan(ctx, id) }) })
	}
	done := make(chan struct{})
	r.wg.Go(func() {
		all.Wait()
		r.observe(ctx)
		close(done)
	})
	locked.Wait()
	select {
	case <-done:
	case <-time.After(r.RecoverTimeout):
		r.observe(ctx)
		r.Log.WarnContext(ctx, "some VMs are not recovered yet; the others can be used")
	}
}

// one recovers one VM. The rules are in the order of the cases.
func (r recovery) one(ctx context.Context, op *operation) error {
	if err := r.restore(ctx, op); err != nil { // the next operation tries again
		r.logger(op.record()).ErrorContext(ctx, "recovering", "error", err)
	}
	v := op.record()
	if v.State != model.Suspended && !v.State.Between() && v.State != model.Broken { // outdated
		if err := snapshot.Remove(op.dirs().Suspended()); err != nil {
			r.logger(v).ErrorContext(ctx, "removing outdated memory", "error", err)
		}
	}
	switch {
	case v.Spec.Remove == model.RemoveOnDetach, v.State == model.Creating, v.State == model.Deleting, neverBegan(v):
		// Whoever asked for it is gone with the daemon that served them, or wanted it gone.
		return r.discard(ctx, op)
	case v.State == model.Pausing, repairs{op}.isHeld():
		return r.abandonPause(ctx, op)
	case v.State == model.Running, v.State == model.Paused:
		return r.adopt(ctx, op)
	case (v.State == model.Starting || !v.State.Live()) && !disk.MayExist(op.dirs().Dir):
		r.showMissing(op)
	case v.State == model.Starting:
		return r.abandonStart(ctx, op)
	case v.State == model.Suspended && !disk.MayExist(op.dirs().Suspended()): // given up
		if v.Runtime == nil {
			return op.settle(ctx, nil)
		}
		// A suspension was called off, and the record could not be put right.
		if err := op.update(ctx, func(v *model.VM) { v.State = model.Pausing }); err != nil {
			return err
		}
		return r.abandonPause(ctx, op)
	case v.State == model.Suspended && v.Runtime != nil:
		return op.endSuspended(ctx)
	case v.State.Live():
		err := op.settle(ctx, nil)
		op.removeIfAsked(ctx)
		return err
	case r.host.HasRunDir(v.ID): // it had got a machine on standby, and no start
		return op.tearDown(ctx)
	case v.Started != nil:
		op.removeIfAsked(ctx) // it stopped, and the daemon died before it could delete it
	}
	return nil
}

// neverBegan reports whether a VM was to begin with another's memory, which is gone, and did not
// get as far. On its disks alone it would be another VM than was asked for.
func neverBegan(v model.VM) bool {
	return (v.State == model.Stopped || v.State == model.Starting) && v.Started == nil && v.Runtime != nil && v.Runtime.Fork
}

// restore completes a restore that was cut off, or removes what is left of one that has no record.
func (r recovery) restore(ctx context.Context, op *operation) error {
	if len(op.record().Restoring) > 0 {
		return repairs{op}.completeRestore(ctx, nil)
	}
	return machine.RemoveAll(op.dirs().Restored())
}

// discard deletes a VM whatever its state. Not every state may become deleting, but a settled one
// may.
func (r recovery) discard(ctx context.Context, op *operation) error {
	switch state := op.record().State; {
	case state == model.Creating, state == model.Deleting:
		return op.remove(ctx)
	case state.Live():
		if err := op.settle(ctx, nil); err != nil {
			return err
		}
	}
	return op.delete(ctx)
}

// adopt finds the running VM's machine again, or settles the VM if it is gone.
func (r recovery) adopt(ctx context.Context, op *operation) error {
	v := op.record()
	m, err := r.host.Adopt(ctx, v.ID, v.Runtime.Driver, v.Runtime.State)
	if fault.KindOf(err) == fault.NotFound {
		return r.ended(ctx, op)
	}
	if err != nil {
		err = fmt.Errorf("looking for the VMM: %w", err)
		r.notAdopted(op, err)
		return err
	}
	op.e.setMachine(m)
	r.watch(op.e)
	r.logger(v).InfoContext(ctx, "adopted", "pid", m.Instance.PID())
	return nil
}

// ended settles a VM whose machine is gone. If a suspension has saved all of the memory, and only
// its record is missing, the VM is suspended.
func (r recovery) ended(ctx context.Context, op *operation) error {
	if op.record().State == model.Pausing {
		kept, err := moment.Look(ctx, op.dirs())
		switch {
		case err != nil: // the next start-up looks again
			r.notAdopted(op, err)
			return err
		case kept.Fits:
			if err := op.update(ctx, func(v *model.VM) { v.State = model.Suspended }); err != nil {
				return err
			}
			return op.endSuspended(ctx)
		case !disk.MayExist(op.dirs().Dir):
			r.showMissing(op)
			return nil
		}
	}
	err := op.settle(ctx, &model.Failure{
		Time: time.Now().UTC(), Msg: "the machine ended while no daemon was there to see it", Log: op.dirs().VMMLog(),
	})
	op.removeIfAsked(ctx)
	return err
}

// notAdopted shows a VM as broken whose machine may well run. What is stored stays: it is as true
// as before, and the next start-up looks for the machine again instead of removing what is broken.
func (r recovery) notAdopted(op *operation, cause error) {
	failure := r.failure(op.record(), cause)
	if fault.KindOf(cause) != fault.WrongState { // not another home's
		failure.Hint = "its machine may well run: banger looks again when the daemon starts; stopping or deleting the VM ends it"
	}
	op.e.show(func(v *model.VM) { v.State, v.LastError = model.Broken, failure })
}

// showMissing shows a VM as broken whose directory is missing. What is stored stays: the directory
// may come back, with the VM's memory in it.
func (r recovery) showMissing(op *operation) {
	failure := r.failure(op.record(), fmt.Errorf("its directory %s is missing", op.dirs().Dir))
	failure.Hint = "stop the daemon and put the directory back, or delete the VM"
	op.e.show(func(v *model.VM) { v.State, v.LastError = model.Broken, failure })
}

// abandonPause lets a VM continue whose pausing or suspending was cut off, or that was being saved
// for a fork or a snapshot. Saved memory is removed only if the machine is there, which has it too.
func (r recovery) abandonPause(ctx context.Context, op *operation) error {
	if err := r.adopt(ctx, op); err != nil || op.e.machine() == nil {
		return err
	}
	files := op.dirs()
	err := errors.Join(snapshot.Remove(files.Suspended()), machine.RemoveUnfinished(files.Dir))
	return errors.Join(err, repairs{op}.callOffPause(ctx))
}

// abandonStart removes what a start made before the daemon died in the middle of it. A VM that was
// being resumed stays suspended, unless its guest has written to a disk since.
func (r recovery) abandonStart(ctx context.Context, op *operation) error {
	why := &model.Failure{
		Time: time.Now().UTC(), Msg: "the daemon ended in the middle of the start", Log: r.Layout.DaemonLog(), Hint: "start it again",
	}
	return ending{op}.abandonStart(ctx, why, model.Failed)
}

// orphans lists the machines that carry a VM's id and have no record: template builds and standby
// machines that a crash cut off.
func (r recovery) orphans() (ids []string, _ error) {
	var errs []error
	for _, dir := range []string{filepath.Dir(r.Layout.VM("x").Run), r.Layout.VMs()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
			continue
		}
		for _, entry := range entries {
			id := entry.Name()
			if model.IsID(id) && !r.records.has(id) && !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	return ids, errors.Join(errs...)
}

func (r recovery) removeOrphan(ctx context.Context, id string) {
	r.Log.WarnContext(ctx, "tearing down a machine that has no record", "vm", id)
	if err := r.host.TearDown(ctx, machine.Remains{Subject: machine.Subject{ID: id, Fresh: true}}); err != nil {
		r.Log.ErrorContext(ctx, "tearing down a machine that has no record", "vm", id, "error", err)
	}
}
