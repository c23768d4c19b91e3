package vm

import (
	"sync"
	"time"

	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/oplock"
)

// entry is one VM in memory.
type entry struct {
	lock    oplock.Lock
	standby *machine.Standby // between the VM's creation and its start, which are one operation

	mu       sync.Mutex // guards what follows; writers hold the operation lock too
	vm       model.VM
	live     *machine.Machine // nil unless a machine exists
	used     oplock.Use
	unwanted bool // it was to be deleted, which could not be recorded; the deletion is tried again
	// recovery has not settled it yet, and holds its operation lock
	recovering bool
	wants      *model.Spec // what a change is going to record; nil without one
	// what is stored of a VM that is shown as broken only because its machine was not found
	hidden   *model.VM
	replaced *model.Failure // why the disks of the machine are not its own; nil if they are
}

func (e *entry) record() model.VM {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.vm
}

// shown is the record as users see it.
func (e *entry) shown() model.VM {
	e.mu.Lock()
	defer e.mu.Unlock()
	v := e.vm
	v.Replaced = e.replaced
	if e.recovering {
		v.State = model.Recovering
	}
	return v
}

func (e *entry) recovered() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.recovering = false
}

// want notes what a change is going to record, so that its image and kernel stay.
func (e *entry) want(spec *model.Spec) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wants = spec
}

func (e *entry) wanted() *model.Spec {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.wants
}

func (e *entry) setRecord(v model.VM) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.vm = v
	if v.State != model.Broken && v.State != model.Deleting {
		e.hidden = nil
	}
}

func (e *entry) machine() *machine.Machine {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.live
}

func (e *entry) setMachine(l *machine.Machine) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.live, e.replaced = l, nil
}

// state returns the record and the machine of one moment.
func (e *entry) state() (model.VM, *machine.Machine) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.vm, e.live
}

// setReplaced stores why the disks of a machine are not its own; nil if they are. It reports
// whether that is new.
func (e *entry) setReplaced(l *machine.Machine, why *model.Failure) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	isNew := e.live == l && (e.replaced == nil) != (why == nil)
	if isNew {
		e.replaced = why
	}
	return isNew
}

// hasReplaced returns why the disks of the VM's machine are not its own; nil if they are.
func (e *entry) hasReplaced() *model.Failure {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.replaced
}

// show changes what is shown of the VM without storing it.
func (e *entry) show(change func(*model.VM)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change(&e.vm)
}

// showBroken shows a VM as broken. What is stored stays, also if a command fails: the next daemon
// must not take the VM for one that a command has ended.
func (e *entry) showBroken(why *model.Failure) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if v := e.vm; e.hidden == nil {
		e.hidden = &v
	}
	e.vm.State, e.vm.LastError = model.Broken, why
}

// stored is what to store of a record.
func (e *entry) stored(v model.VM) model.VM {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.hidden != nil && v.State == model.Broken {
		v.State, v.LastError = e.hidden.State, e.hidden.LastError
	}
	return v
}

// releaseMachine closes the agent's client and the instance. The machine itself continues.
func (e *entry) releaseMachine() error {
	l := e.machine()
	if l == nil {
		return nil
	}
	e.setMachine(nil)
	return l.Close()
}

func (e *entry) isUnwanted() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.unwanted
}

// markUnwanted reports whether the VM was unwanted before.
func (e *entry) markUnwanted() (before bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before, e.unwanted = e.unwanted, true
	return before
}

// use counts a user, if the VM runs and is not about to be suspended.
func (e *entry) use() (machine.Agent, func(), bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.vm.State != model.Running || e.live == nil || !e.used.Begin() {
		return nil, nil, false
	}
	return e.live.Agent, e.unuse, true
}

func (e *entry) unuse() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.used.End(time.Now())
}

// usedNow counts as use of the VM at this moment.
func (e *entry) usedNow() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.used.Touch(time.Now())
}

func (e *entry) isLeaving() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.used.Leaving()
}

// leave announces that the VM is going to be suspended, unless somebody uses it.
func (e *entry) leave() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.used.Leave()
}

func (e *entry) left() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.used.Stay()
}

// idleFor returns how long the VM has been without use: no session, and little CPU time of its VMM.
func (e *entry) idleFor(now time.Time) time.Duration {
	cost := e.machine().Cost()
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.used.IdleFor(now, cost.CPU)
}
