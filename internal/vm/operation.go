package vm

import (
	"context"
	"fmt"
	"slices"
	"time"

	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/oplock"
	"banger/internal/pace"
	"banger/internal/paths"
	"banger/internal/vm/record"
)

// kind is what an operation does.
type kind string

// The kinds of operation.
const (
	opCreate   kind = "create"
	opStart    kind = "start" // also: launch, resume, wake, restore, a fork's child
	opRestart  kind = "restart"
	opStop     kind = "stop"
	opKill     kind = "kill"
	opPause    kind = "pause"
	opSuspend  kind = "suspend"
	opFork     kind = "fork"
	opSnapshot kind = "snapshot"
	opSet      kind = "set"
	opRename   kind = "rename"
	opDelete   kind = "delete"
	opSettle   kind = "recovery"
	opEnded    kind = "cleanup" // of a VM whose machine has ended
)

// mayWait reports whether an operation of this kind may wait for a guest. The end of its VM calls
// it off. The end of the daemon does, too, if it waits for a guest or for another operation.
func (k kind) mayWait() bool {
	return !slices.Contains([]kind{opCreate, opKill, opRename, opDelete, opEnded}, k)
}

// needsGuest reports whether an operation on a running VM needs a guest that answers.
func (k kind) needsGuest() bool {
	switch k {
	case opStart, opPause, opSuspend, opFork, opSnapshot, opSet:
		return true
	}
	return false
}

// needsDisks reports whether an operation on a VM that runs needs what the VM has written.
func (k kind) needsDisks() bool {
	switch k {
	case opRestart, opStop, opSuspend, opFork, opSnapshot, opSet:
		return true
	}
	return false
}

// mayEndUnknown reports whether an operation may end a machine that could not be looked for.
func (k kind) mayEndUnknown() bool { return k == opStop || k == opRestart }

// operation is one under way on one VM, whose operation lock it holds.
type operation struct {
	*core
	e        *record.Entry
	removing bool             // the VM is being deleted, for which nothing has to be stored
	standby  *machine.Standby // whose machine the operation's start takes over; nil for none
}

// operateOn runs do while no other operation works on the VM. The context of do also ends when the
// operation is called off.
func operateOn[T any](
	ctx context.Context, c *core, e *record.Entry, k kind, do func(context.Context, *operation) (T, error),
) (result T, err error) {
	return during(c, e, e.Lock.Enqueue(ctx, string(k)), k, do)
}

// during is operateOn for an operation that is in the line.
func during[T any](
	c *core, e *record.Entry, t *oplock.Turn, k kind, do func(context.Context, *operation) (T, error),
) (result T, err error) {
	err = t.WaitUnless(c.waits, k.mayWait())
	if err != nil {
		return result, fmt.Errorf("waiting for VM %s: %w", e.Record().Spec.Name, err)
	}
	defer c.ops.Begin()()
	defer t.Release()
	if k == opSettle { // all of it may wait for a VMM or a guest
		defer oplock.AwaitGuest(t.Context())()
	}
	return do(t.Context(), &operation{core: c, e: e})
}

// awaitRecovery waits until a VM is settled after the daemon's start. That is bounded.
func (c *core) awaitRecovery(ctx context.Context, e *record.Entry) error {
	if e.Shown().State != model.Recovering {
		return nil
	}
	ctx, cancel := pace.Context(ctx, recoveryTimeout, "answer from VM "+e.Record().Spec.Name+", which is being recovered")
	defer cancel()
	_, err := operateOn(ctx, c, e, opSettle, func(context.Context, *operation) (any, error) { return nil, nil })
	return err
}

// recoveryTimeout is the nominal time that a command waits for a VM to be recovered.
const recoveryTimeout = time.Minute

// record returns the VM's record.
func (op *operation) record() model.VM { return op.e.Record() }

// name is the VM's name.
func (op *operation) name() string { return op.record().Spec.Name }

// dirs names the VM's files.
func (op *operation) dirs() paths.VM { return op.dirsOf(op.record()) }

// update changes the record: see record.Entry.Update.
func (op *operation) update(ctx context.Context, change func(*model.VM)) error {
	return op.e.Update(ctx, change)
}

// storeFact stores what a capability is about to make.
func (op *operation) storeFact(ctx context.Context, capability string, f model.Fact) error {
	change := func(v *model.VM) { v.Facts = machine.Facts(v.Facts).With(capability, f) }
	err := op.update(ctx, change)
	if err != nil && op.removing { // deleting makes room on a full disk, so it must not need any
		op.logger(op.record()).WarnContext(ctx, "storing a fact of a VM that is being deleted", "error", err)
		op.e.Show(change)
		return nil
	}
	return err
}

// subject is the VM as the machine package sees it.
func (op *operation) subject() machine.Subject { return subjectOf(op.record()) }

func subjectOf(v model.VM) machine.Subject {
	return machine.Subject{ID: v.ID, Spec: v.Spec, DiskImage: v.DiskImage, Disks: v.Disks, Fresh: v.Fresh(), Facts: v.Facts}
}
