package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/oplock"
	"banger/internal/snapshot"
	"banger/internal/vm/explain"
	"banger/internal/vm/moment"
	"banger/internal/vm/record"
	"banger/internal/vmdir"
)

// recovery brings records and host together at start-up: see docs/internals/recovery.md. After all
// records could be read, machines without a record are torn down. One VM's trouble never keeps the
// daemon from starting: it is logged, and the VM is broken.
type recovery struct {
	*core
	// isFound says that the VM's machine was looked for, and that the rest may wait for its guest
	isFound func()
}

func (r recovery) run(ctx context.Context) error {
	entries, err := r.records.Load(ctx)
	if err != nil {
		return err
	}
	// An adoption or a cleanup that is cut off reads like one that failed. All of it is bounded.
	ctx = context.WithoutCancel(ctx)
	// Now: soon there are machines without a record that are none of a crash.
	orphans, err := r.host.IDs()
	orphans = slices.DeleteFunc(orphans, r.records.Has)
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

// sideBySide is how many machines are looked for at a time. Guests that do not answer are waited
// for beside that, however many there are.
const sideBySide = 32

// inBackground recovers VMs side by side, and removes orphans. It returns when all is done, and no
// later than RecoverTimeout: a VMM that does not answer keeps nobody from the other VMs. Before it
// returns, the operation lock of each VM that is not settled is held.
func (r recovery) inBackground(ctx context.Context, entries []*record.Entry, orphans []string) {
	slots := make(chan struct{}, sideBySide)
	within := func(do func(r recovery)) {
		slots <- struct{}{}
		release := sync.OnceFunc(func() { <-slots })
		defer release()
		do(recovery{r.core, release})
	}
	var locked, all sync.WaitGroup
	for _, e := range entries {
		v := e.Record()
		locked.Add(1)
		all.Go(func() {
			_, err := operateOn(ctx, r.core, e, opSettle, func(ctx context.Context, op *operation) (_ any, err error) {
				defer e.Recovered()
				locked.Done()
				within(func(r recovery) { err = r.one(context.WithoutCancel(ctx), op) })
				return nil, err
			})
			if err != nil {
				r.logger(v).ErrorContext(ctx, "recovering", "state", v.State, "error", err)
			}
		})
	}
	for _, id := range orphans {
		all.Go(func() { within(func(recovery) { r.host.RemoveUnrecorded(ctx, id) }) })
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
	if op.record().Started != nil {
		op.useDisks(ctx)
	}
	if done, err := r.older(ctx, op); done || err != nil {
		return err
	}
	v := op.record()
	switch {
	case v.Spec.Remove == model.RemoveOnDetach, v.State == model.Creating, v.State == model.Deleting, v.NeverBegan():
		// Whoever asked for it is gone with the daemon that served them, or wanted it gone.
		return r.discard(ctx, op)
	case v.State == model.Pausing, repairs{op}.isHeld():
		return r.abandonPause(ctx, op)
	case v.State == model.Running, v.State == model.Paused:
		err := r.adopt(ctx, op)
		if op.e.Machine() != nil && op.e.Replaced() == nil { // it has what was in its memory
			err = errors.Join(err, snapshot.Remove(op.dirs().Suspended()))
		}
		return errors.Join(err, r.checkPaused(ctx, op))
	case (v.State == model.Starting || !v.State.Live()) && vmdir.IsMissing(op.dirs()):
		r.showMissing(op)
	case v.State == model.Starting:
		if v.Runtime == nil { // no start, but a rebuilt record: the machine may run
			if found, err := r.find(ctx, op); found || err != nil {
				return err
			}
			if asleep, err := (repairs{op}).asleep(ctx); asleep || err != nil {
				return err
			}
		}
		return r.endStart(ctx, op)
	case v.State == model.Suspended && !disk.MayExist(op.dirs().Suspended()):
		if v.Runtime == nil { // it may come back; a person gives it up
			failure := op.failure(v, moment.CheckKept(ctx, op.name(), op.dirs()))
			op.e.Show(func(v *model.VM) { v.LastError = failure })
			return nil
		}
		// A suspension was called off, and the record could not be put right.
		if err := op.update(ctx, func(v *model.VM) { v.State = model.Pausing }); err != nil {
			return err
		}
		return r.abandonPause(ctx, op)
	case v.State == model.Suspended && v.Runtime != nil:
		return op.endSuspended(ctx)
	case v.State.Live():
		if err := op.tearDown(ctx); err != nil {
			return errors.Join(err, op.markBroken(ctx, err))
		}
		return r.ended(ctx, op, nil)
	case r.host.HasRunDir(v.ID): // it had got a machine on standby, and no start
		return op.tearDown(ctx)
	case v.Started != nil && len(v.Restoring) == 0:
		op.removeIfAsked(ctx) // it stopped, and the daemon died before it could delete it
	}
	return nil
}

// restore completes a restore that was cut off, or removes what is left of one that has no record.
func (r recovery) restore(ctx context.Context, op *operation) error {
	if len(op.record().Restoring) > 0 {
		return repairs{op}.completeRestore(ctx, nil)
	}
	return errors.Join(machine.RemoveUnfinished(op.dirs().Dir), machine.RemoveAll(op.dirs().Restored()))
}

// older brings a record up to date that is older than its VM, if what is on the host proves so. So
// no record of a VM at rest ends a machine. done is whether nothing is left to do.
func (r recovery) older(ctx context.Context, op *operation) (done bool, err error) {
	// the record is older: the VM was completed
	if v := op.record(); v.State == model.Creating && vmdir.IsUsers(op.dirs()) || v.NeverBegan() && vmdir.HasBegun(v, op.dirs()) {
		if err := op.update(ctx, func(v *model.VM) { v.State, v.Runtime = model.Stopped, nil }); err != nil {
			return false, err
		}
	}
	v := op.record()
	if v.State.Between() || v.State.Live() || v.Runtime != nil || v.Spec.Remove == model.RemoveOnDetach {
		return false, nil
	}
	if r.host.HasRunDir(v.ID) && !vmdir.IsUnused(op.dirs()) {
		if found, err := r.find(ctx, op); found || err != nil {
			return true, err
		}
	}
	if v.State == model.Suspended {
		return false, nil
	}
	return repairs{op}.asleep(ctx)
}

// discard deletes a VM whatever its state. A live VM is settled first: it may not become deleting.
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
	found, err := r.find(ctx, op)
	if !found && err == nil {
		return r.ended(ctx, op, &model.Failure{
			Time: time.Now().UTC(), Msg: "the machine ended while no daemon was there to see it", Log: op.dirs().VMMLog(),
		})
	}
	return err
}

// find adopts a VM's machine, if it has one. If the machine is not the one that the record knows,
// the record is older, and leads to the machine from now on.
func (r recovery) find(ctx context.Context, op *operation) (found bool, err error) {
	v := op.record()
	known := cmp.Or(v.Runtime, &model.Runtime{})
	looking, cancel := oplock.Outlive(ctx, 0)
	defer cancel()
	m, err := r.host.Adopt(looking, v.ID, known.Driver, known.State)
	if fault.KindOf(err) == fault.NotFound {
		return false, nil
	}
	if err != nil {
		err = fmt.Errorf("looking for the VMM: %w", err)
		r.notAdopted(op, err)
		return false, err
	}
	r.logger(v).InfoContext(ctx, "adopted", "pid", m.Instance.PID(), "known", known.PID)
	if m.Instance.PID() != known.PID {
		if err := r.leadTo(ctx, op, m); err != nil {
			r.notAdopted(op, err)
			return false, errors.Join(err, m.Close())
		}
	}
	op.e.SetMachine(m)
	_ = op.checkDisks(looking) // which is shown
	r.watch(op.e)
	return true, nil
}

// leadTo makes a record lead to the VM's machine.
func (r recovery) leadTo(ctx context.Context, op *operation, m *machine.Machine) error {
	if !op.record().State.Live() {
		op.e.Show(func(v *model.VM) { v.State = model.Starting })
	}
	return op.update(ctx, func(v *model.VM) {
		if v.State == model.Starting {
			now, spec := time.Now().UTC(), v.Spec
			v.State, v.Started, v.LastError, v.Network = model.Running, &now, nil, &model.Network{Mode: spec.Net}
			v.Runtime = &model.Runtime{Prepared: r.host.Cleaners(), Spec: &spec}
			v.LayOver(spec.ImageID)
		}
		v.Runtime.Driver, v.Runtime.State, v.Runtime.PID = m.Driver.Name(), m.Instance.State(), m.Instance.PID()
	})
}

// ended settles a VM whose machine is gone. If a suspension has saved all of the memory, and only
// its record is missing, the VM is suspended.
func (r recovery) ended(ctx context.Context, op *operation, why *model.Failure) error {
	asleep, err := repairs{op}.asleep(ctx)
	switch {
	case asleep, err != nil:
		return err
	case (op.record().State == model.Pausing || op.record().State == model.Broken) && vmdir.IsMissing(op.dirs()):
		r.showMissing(op)
		return nil
	}
	err = op.settle(ctx, why)
	op.removeIfAsked(ctx)
	return err
}

// notAdopted shows a VM as broken whose machine may well run. What is stored stays: it is as true
// as before, and the next start-up looks for the machine again instead of removing what is broken.
func (r recovery) notAdopted(op *operation, cause error) {
	failure := r.failure(op.record(), cause)
	if fault.KindOf(cause) != fault.WrongState { // not another home's
		failure.Hint = "its machine may well run: banger looks again at the next command and when the daemon starts; stopping or deleting the VM ends it"
	}
	op.e.ShowBroken(failure)
}

// showMissing shows a VM as broken whose directory is missing. What is stored stays: the directory
// may come back, with the VM's memory in it.
func (r recovery) showMissing(op *operation) {
	op.e.ShowBroken(r.failure(op.record(), explain.Missing(op.record(), op.dirs())))
}

// abandonPause lets a VM continue whose pausing or suspending was cut off, or that was being saved
// for a fork or a snapshot. Saved memory is removed only if the machine is there, which has it too.
func (r recovery) abandonPause(ctx context.Context, op *operation) error {
	if err := r.adopt(ctx, op); err != nil || op.e.Machine() == nil {
		return err
	}
	r.isFound()
	err := machine.RemoveUnfinished(op.dirs().Dir)
	if op.e.Replaced() == nil {
		err = errors.Join(err, snapshot.Remove(op.dirs().Suspended()))
	}
	return errors.Join(err, repairs{op}.callOffPause(ctx))
}

// checkPaused lets a VM continue that is recorded as paused and whose guest runs.
func (r recovery) checkPaused(ctx context.Context, op *operation) error {
	if op.record().State != model.Paused || op.e.Machine() == nil {
		return nil
	}
	looking, cancel := oplock.Outlive(ctx, 0)
	defer cancel()
	if paused, err := op.e.Machine().IsPaused(looking, r.isFound); paused || err != nil {
		return err
	}
	if err := op.update(ctx, func(v *model.VM) { v.State, v.LastError = model.Pausing, nil }); err != nil {
		return err
	}
	return repairs{op}.callOffPause(ctx)
}

// endStart completes a start from memory if its machine is whole: the guest may have written to a
// disk, so that the memory does not fit any more. Otherwise it removes what the start made. A VM
// that was being resumed stays suspended, unless its guest has written to a disk.
func (r recovery) endStart(ctx context.Context, op *operation) error {
	v := op.record()
	if from := moment.CutOff(v, op.dirs()); from != nil {
		// it has what the guest did, and may be found later
		if err := machine.CheckEnd(ctx, r.host, op.remains()); err != nil {
			r.notAdopted(op, err)
			return err
		}
		j := journal{op, v.Runtime.Spec.ImageID}
		r.isFound()
		waiting, cancel := oplock.Outlive(ctx, 0)
		defer cancel()
		l, err := r.host.Complete(waiting, machine.Order{Subject: op.machineSubject(), Driver: v.Runtime.Driver, Source: from, Journal: j}, v.Runtime.State)
		if err == nil {
			op.e.SetMachine(l.Machine)
			if err = (&launching{operation: op, from: from}).finish(ctx, l); err != nil {
				r.notAdopted(op, err)
				err = errors.Join(err, op.e.ReleaseMachine())
			}
			return err
		}
		r.logger(v).WarnContext(ctx, "completing a start", "error", err)
		if r.waits.Err() != nil { // the next start-up tries again
			return errEnding
		}
	}
	why := &model.Failure{
		Time: time.Now().UTC(), Msg: "the daemon ended in the middle of the start", Log: r.Layout.DaemonLog(), Hint: "start it again",
	}
	return ending{op}.abandonStart(ctx, why, model.Failed)
}
