package record

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/oplock"
	"banger/internal/pace"
)

// Entry is one VM in memory: its record and what is known beside that.
type Entry struct {
	Lock  oplock.Lock // of the operations on the VM
	store Store
	log   *slog.Logger

	mu       sync.Mutex // guards what follows; writers hold the operation lock too
	vm       model.VM
	live     *machine.Machine // nil unless a machine exists
	used     oplock.Use
	unwanted bool // it was to be deleted, which could not be recorded; the deletion is tried again
	// recovery has not settled it yet, and holds its operation lock
	recovering bool
	wants      *model.Spec // what a change is going to record; nil without one
	// what is stored of a VM that is shown as broken only because its machine or its directory was
	// not found
	hidden   *model.VM
	replaced *model.Failure // why the disks of the machine are not its own, or nobody can tell
	lost     *model.Failure // what that means if the machine ends; nil for nothing
}

// storeTimeout is the nominal time for writing one record.
const storeTimeout = 10 * time.Second

// Update changes the record: in the store first, then in memory. A context that has ended does not
// stop it: what has happened must be recorded. The operation lock is held.
func (e *Entry) Update(ctx context.Context, change func(*model.VM)) error {
	before := e.Record()
	after := before
	if before.Runtime != nil { // the one pointer that changes in place
		rt := *before.Runtime
		rt.Prepared = slices.Clone(rt.Prepared)
		after.Runtime = &rt
	}
	change(&after)
	after.Revision = before.Revision + 1
	if after.State != before.State && !before.State.May(after.State) {
		return fmt.Errorf("VM %s: state %s cannot follow %s", before.Spec.Name, after.State, before.State)
	}
	ctx, cancel := pace.Context(context.WithoutCancel(ctx), storeTimeout, "stored record")
	defer cancel()
	if err := e.store.PutVM(ctx, e.stored(after)); err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	e.setRecord(after)
	if after.State != before.State {
		e.log.InfoContext(ctx, "state", "vm", after.ID, "name", after.Spec.Name, "from", before.State, "to", after.State)
	}
	return nil
}

// Record returns the record.
func (e *Entry) Record() model.VM {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.vm
}

// Shown returns the record as users see it.
func (e *Entry) Shown() model.VM {
	e.mu.Lock()
	defer e.mu.Unlock()
	v := e.vm
	v.Replaced = e.replaced
	if e.recovering {
		v.State = model.Recovering
	}
	return v
}

// Recovered notes that recovery has settled the VM.
func (e *Entry) Recovered() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.recovering = false
}

// Want notes what a change is going to record, so that its image and kernel stay.
func (e *Entry) Want(spec *model.Spec) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wants = spec
}

// Wanted returns what a change is going to record; nil without one.
func (e *Entry) Wanted() *model.Spec {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.wants
}

func (e *Entry) setRecord(v model.VM) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.vm = v
	if v.State != model.Broken && v.State != model.Deleting {
		e.hidden = nil
	}
}

// Machine returns the VM's machine; nil unless one exists.
func (e *Entry) Machine() *machine.Machine {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.live
}

// SetMachine notes the VM's machine, or with nil that it has none.
func (e *Entry) SetMachine(l *machine.Machine) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.live, e.replaced, e.lost = l, nil, nil
}

// State returns the record and the machine of one moment.
func (e *Entry) State() (model.VM, *machine.Machine) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.vm, e.live
}

// SetReplaced notes why the disks of a machine are not its own, or why nobody can tell; nil if they
// are its own. lost is what to record when the machine ends. It reports whether that is new.
func (e *Entry) SetReplaced(l *machine.Machine, why, lost *model.Failure) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	isNew := e.live == l && ((e.replaced == nil) != (why == nil) || why != nil && e.replaced.Msg != why.Msg)
	if isNew {
		e.replaced, e.lost = why, lost
	}
	return isNew
}

// Replaced returns what SetReplaced has noted.
func (e *Entry) Replaced() *model.Failure {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.replaced
}

// Lost returns what to record if the VM's machine ends now; nil for nothing.
func (e *Entry) Lost() *model.Failure {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lost
}

// Show changes what is shown of the VM without storing it.
func (e *Entry) Show(change func(*model.VM)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change(&e.vm)
}

// ShowBroken shows a VM as broken. What is stored stays, also if a command fails: the next daemon
// must not take the VM for one that a command has ended.
func (e *Entry) ShowBroken(why *model.Failure) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if v := e.vm; e.hidden == nil {
		e.hidden = &v
	}
	e.vm.State, e.vm.LastError = model.Broken, why
}

// Stored returns the record as it is stored, if what is shown is another one: see ShowBroken.
func (e *Entry) Stored() model.VM { return e.stored(e.Record()) }

// IsHidden reports whether ShowBroken hides what is stored.
func (e *Entry) IsHidden() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.hidden != nil && e.vm.State == model.Broken
}

// ShowStored ends what ShowBroken has begun. The VM is shown as recovering until Recovered is
// called. The operation lock is held.
func (e *Entry) ShowStored() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.vm.State, e.vm.LastError = e.hidden.State, e.hidden.LastError
	e.hidden, e.recovering = nil, true
}

// stored is what to store of a record.
func (e *Entry) stored(v model.VM) model.VM {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.hidden != nil && v.State == model.Broken {
		v.State, v.LastError = e.hidden.State, e.hidden.LastError
	}
	return v
}

// ReleaseMachine closes the agent's client and the instance. The machine itself continues.
func (e *Entry) ReleaseMachine() error {
	l := e.Machine()
	if l == nil {
		return nil
	}
	e.SetMachine(nil)
	return l.Close()
}

// IsUnwanted reports whether the VM was to be deleted, which could not be recorded.
func (e *Entry) IsUnwanted() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.unwanted
}

// MarkUnwanted reports whether the VM was unwanted before.
func (e *Entry) MarkUnwanted() (before bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before, e.unwanted = e.unwanted, true
	return before
}

// Use counts a user, if the VM runs and is not about to be suspended.
func (e *Entry) Use() (agent machine.Agent, done func(), ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.vm.State != model.Running || e.live == nil || !e.used.Begin() {
		return nil, nil, false
	}
	return e.live.Agent, e.unuse, true
}

func (e *Entry) unuse() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.used.End(time.Now())
}

// UsedNow counts as use of the VM at this moment.
func (e *Entry) UsedNow() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.used.Touch(time.Now())
}

// Leave announces that the VM is going to be suspended, unless somebody uses it.
func (e *Entry) Leave() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.used.Leave()
}

// Stay takes back what Leave has announced.
func (e *Entry) Stay() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.used.Stay()
}

// MayWake reports whether the VM runs soon if somebody waits for it.
func (e *Entry) MayWake() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch e.vm.State {
	case model.Suspended, model.Pausing, model.Starting:
		return true
	}
	return e.used.Leaving()
}

// IdleFor returns how long the VM has been without use: no session, and little CPU time of its VMM.
func (e *Entry) IdleFor(now time.Time) time.Duration {
	cost := e.Machine().Cost()
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.used.IdleFor(now, cost.CPU)
}
