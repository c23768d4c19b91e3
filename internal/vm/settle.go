package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/snapshot"
	"banger/internal/vm/explain"
	"banger/internal/vmdir"
	"banger/internal/vmm/console"
)

// remains is what the record knows of the VM's run.
func (op *operation) remains() machine.Remains {
	v, l := op.e.State()
	// with what the machine was started as: the VM's own spec may be another one by now
	r := machine.Remains{Subject: op.machineSubject(), Machine: l, StoreFact: op.storeFact}
	switch {
	case v.Runtime != nil:
		r.Driver, r.State, r.Prepared = v.Runtime.Driver, v.Runtime.State, v.Runtime.Prepared
	case op.host.HasRunDir(v.ID): // of a machine on standby that the record does not name yet
		r.Prepared = op.host.Cleaners()
	}
	return r
}

// tearDown removes everything that a run of the VM made on the host. It is idempotent. A machine
// that does not end keeps the rest: removing disks and network from under a running VMM would be
// worse than a leak that the record still leads to.
func (op *operation) tearDown(ctx context.Context) error {
	r := op.remains()
	if err := op.host.End(ctx, r); err != nil {
		return err
	}
	op.e.SetMachine(nil)
	return op.host.Release(ctx, r)
}

// useDisks notes that the disks of a VM that has run are a user's. If that fails, the record alone
// says so.
func (op *operation) useDisks(ctx context.Context) {
	if err := vmdir.MarkUsed(op.dirs()); err != nil {
		op.logger(op.record()).ErrorContext(ctx, "keeping the VM's disks", "error", err)
	}
}

// settle brings a VM whose machine has ended, or must end, to rest: stopped if everything could be
// removed, otherwise broken. why is recorded as its last error unless it is nil.
func (op *operation) settle(ctx context.Context, why *model.Failure) error {
	ctx = context.WithoutCancel(ctx)
	// memory that lies beside other disks is theirs; that of a restore may be in its place already
	keep := op.e.Replaced() != nil || len(op.record().Restoring) > 0
	err := op.tearDown(ctx)
	if err == nil && !keep {
		err = snapshot.Remove(op.dirs().Suspended()) // at once: half a memory would look damaged
	}
	if err != nil {
		return errors.Join(err, op.markBroken(ctx, err))
	}
	now := time.Now().UTC()
	return op.update(ctx, func(v *model.VM) {
		// it still says what went wrong, and nothing is left to do
		if v.State == model.Broken && v.LastError != nil {
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

// ending is an operation that brings its VM to rest after a start.
type ending struct{ *operation }

// endStart brings a VM to rest whose start did not succeed. Memory that it was to start from stays,
// unless a guest has written to a disk since. left is what could not be removed of the run: nil for
// nothing. If something is left, endSuspended looks at memory and disks when that is gone.
func (op ending) endStart(ctx context.Context, why *model.Failure, left error, rest model.State) error {
	ctx = context.WithoutCancel(ctx)
	resumed := disk.MayExist(op.dirs().Suspended())
	keep, unknown := resumed, error(nil)
	if resumed && left == nil {
		keep, unknown = op.memoryServes(ctx)
		keep = keep || unknown != nil
	}
	if resumed && !keep { // first: memory beside a VM at rest is memory that nobody has given up
		if err := snapshot.Remove(op.dirs().Suspended()); err != nil {
			keep, unknown = true, err
		}
	}
	err := op.update(ctx, func(v *model.VM) {
		v.LastError = why
		switch {
		case keep:
			v.State = model.Suspended
		case left != nil:
			v.State = model.Broken
		default:
			v.State = rest
		}
		if left == nil && unknown == nil {
			v.Runtime = nil
		}
	})
	return errors.Join(unknown, err)
}

// abandonStart ends a start that nobody completes any more.
func (op ending) abandonStart(ctx context.Context, why *model.Failure, rest model.State) error {
	ctx = context.WithoutCancel(ctx)
	left := op.tearDown(ctx)
	return errors.Join(left, op.endStart(ctx, why, left, rest))
}

// endSuspended removes what a VM still has on the host whose memory is kept. If something stays,
// the VM is suspended all the same, and its Runtime says that something is left: it is not resumed
// before that is gone, because the old machine may still have its disks.
func (op *operation) endSuspended(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	const again = "its memory is kept; banger tries again every so often, and when it is resumed"
	if err := op.tearDown(ctx); err != nil {
		failure := op.failure(op.record(), err)
		failure.Hint = again
		return errors.Join(fmt.Errorf("it is suspended, but not all of its run could be removed: %w", err),
			tell(ctx, op, failure))
	}
	current, err := op.memoryServes(ctx)
	if err != nil {
		failure := op.failure(op.record(), err)
		failure.Hint = cmp.Or(failure.Hint, again)
		return errors.Join(err, tell(ctx, op, failure))
	}
	if !current {
		why := fault.New(fault.Unavailable, "its guest wrote to a disk after a resume that failed, so its memory is of no use")
		return errors.Join(why, op.settle(ctx, op.failure(op.record(), why)))
	}
	now := time.Now().UTC()
	return op.update(ctx, func(v *model.VM) { v.Runtime, v.Network, v.LastError, v.Stopped = nil, nil, nil, &now })
}

// tell records a VM's last error, unless it is recorded already: each record is copied and kept.
func tell(ctx context.Context, op *operation, failure *model.Failure) error {
	if last := op.record().LastError; last != nil && last.Msg == failure.Msg && last.Hint == failure.Hint {
		return nil
	}
	return op.update(ctx, func(v *model.VM) { v.LastError = failure })
}

func (op *operation) markBroken(ctx context.Context, cause error) error {
	return op.update(ctx, func(v *model.VM) {
		v.State = model.Broken
		v.LastError = op.failure(*v, cause)
		v.LastError.Hint = "banger tries again when it is deleted or the daemon starts"
	})
}

// delete removes a VM for good, and its record last.
func (op *operation) delete(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	if err := op.update(ctx, func(v *model.VM) { v.State = model.Deleting }); err != nil {
		// On a full disk, deleting makes room. After a crash in the middle the record can be
		// deleted again.
		op.logger(op.record()).WarnContext(ctx, "deleting without having recorded it", "error", err)
	}
	return op.remove(ctx)
}

// remove removes what the VM's run made, its files, what its life held, and its record. If
// something of the first two stays, the VM is broken. Later it is unwanted: it can never be started
// again.
func (op *operation) remove(ctx context.Context) error {
	op.removing = true
	id := op.record().ID
	err := op.tearDown(ctx)
	if err == nil {
		err = vmdir.Remove(op.dirs())
	}
	if err != nil {
		// otherwise not even the beginning could be recorded
		if op.record().State.May(model.Broken) {
			brokenErr := op.markBroken(ctx, err)
			if brokenErr == nil {
				return err
			}
			err = errors.Join(err, brokenErr)
		}
		op.setUnwanted(ctx, err)
		return err
	}
	err = op.host.Deleted(ctx, op.subject(), op.storeFact)
	if err == nil {
		err = op.records.Delete(ctx, op.e)
	}
	if err != nil {
		op.setUnwanted(ctx, err)
		return err
	}
	op.Log.InfoContext(ctx, "deleted", "vm", id)
	return nil
}

// setUnwanted shows a VM as being deleted whose end cannot be recorded, usually because the host's
// disk is full. The deletion is tried again when there may be room. What is stored stays what it
// was.
func (op *operation) setUnwanted(ctx context.Context, cause error) {
	known := op.e.MarkUnwanted()
	failure := op.failure(op.record(), cause)
	failure.Hint = "banger tries again by itself"
	op.e.Show(func(v *model.VM) { v.State, v.LastError = model.Deleting, failure })
	if !known {
		op.logger(op.record()).ErrorContext(ctx, "deleting a VM could not be recorded; it is tried again", "error", cause)
	}
}

// removeIfAsked deletes a VM that has come to rest if it was made to be removed then.
func (op *operation) removeIfAsked(ctx context.Context) {
	v := op.record()
	if v.Spec.Remove == model.RemoveNever || v.State != model.Stopped {
		return
	}
	if err := op.delete(ctx); err != nil {
		op.logger(v).ErrorContext(ctx, "deleting a VM that ended", "error", err)
	}
}

// failure turns an error into what the VM's record keeps of it.
func (c *core) failure(v model.VM, err error) *model.Failure {
	return explain.Failure(c.Layout, v, err)
}

// logConsole keeps a guest's last words in the daemon's log, if the console's log has changed since
// before. That log is removed with the VM. The daemon's log quotes, so a guest cannot forge lines.
func (c *core) logConsole(ctx context.Context, v model.VM, before fs.FileInfo) {
	if words := console.Since(c.dirsOf(v).ConsoleLog(), before); len(words) > 0 {
		c.logger(v).WarnContext(ctx, "the guest's last words", "console", string(words))
	}
}
