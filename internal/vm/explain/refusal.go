// Package explain words what a user reads of a VM: why an operation is refused, and what a record
// keeps of a failure. Its functions look at what they are given, and change nothing.
package explain

import (
	"errors"

	"banger/internal/fault"
	"banger/internal/limit"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/paths"
)

// NotRunning refuses what only a running VM can do.
func NotRunning(v model.VM) error {
	f := fault.New(fault.WrongState, "VM %s is not running: it is %s", v.Spec.Name, v.State.Phrase())
	switch v.State {
	case model.Stopped, model.Failed:
		return f.WithHint("start it with `banger vm start %s`", v.Spec.Name)
	case model.Starting:
		return f.WithHint("wait until it has come up")
	case model.Paused, model.Suspended:
		return f.WithHint("resume it with `banger vm resume %s`", v.Spec.Name)
	case model.Broken:
		return hinted(f, v)
	}
	return f
}

// NothingToKill refuses a signal to a VM without a VMM.
func NothingToKill(v model.VM) error {
	f := fault.New(fault.WrongState, "VM %s is not running: it is %s", v.Spec.Name, v.State.Phrase())
	switch v.State {
	case model.Starting:
		return f.WithHint("to call its start off, delete it with `banger vm delete --force %s`", v.Spec.Name)
	case model.Stopped, model.Failed:
		return f.WithHint("there is nothing to kill; to delete it: `banger vm delete %s`", v.Spec.Name)
	case model.Broken:
		return hinted(f, v)
	}
	return f
}

// hinted adds the way out of what the VM's last error was.
func hinted(f *fault.Error, v model.VM) error {
	if v.LastError == nil || v.LastError.Hint == "" {
		return f
	}
	return f.WithHint("%s", v.LastError.Hint)
}

// Missing refuses a VM whose directory is missing.
func Missing(v model.VM, files paths.VM) error {
	return fault.New(fault.Damaged, "the directory of VM %s is missing: %s", v.Spec.Name, files.Dir).
		WithHint("Mount the disk that has the directory: the next command on the VM looks again. Or put the directory back while no daemon runs. "+
			"If it is lost, delete the VM: `banger vm delete --force %s`", v.Spec.Name)
}

// CalledOff is the error of an operation that was called off, because its VM was killed or deleted,
// or because the daemon ends. err is what it saw of that.
func CalledOff(v model.VM, why, err error) error {
	switch {
	case err == nil || why == nil:
		return err
	case errors.Is(why, machine.ErrKilled):
		if errors.As(err, &met{}) {
			return err
		}
		return Killed(v, err)
	case errors.Is(err, why):
		return err
	}
	return fault.New(fault.KindOf(why), "%w (%w)", why, err).WithHint("%s", fault.HintOf(why))
}

// Killed is the error of an operation that met a kill of its VM. err is what it saw of that.
func Killed(v model.VM, err error) error {
	return met{fault.New(fault.Canceled, "VM %s was killed meanwhile (%w)", v.Spec.Name, err)}
}

// met marks what Killed returns.
type met struct{ error }

func (e met) Unwrap() error { return e.error }

// MaySet refuses a VM whose guest cannot take anything up and would not take it up later.
func MaySet(v model.VM) error {
	switch {
	case v.State == model.Suspended:
		return fault.New(fault.WrongState, "VM %s is suspended. Its saved memory requires the present machine", v.Spec.Name).
			WithHint("resume it first, or stop it")
	case v.State == model.Paused:
		return fault.New(fault.WrongState, "VM %s is paused: its guest cannot take anything up", v.Spec.Name).
			WithHint("resume it first, or stop it")
	case v.State.Between(), v.State == model.Broken:
		return fault.New(fault.WrongState, "VM %s is %s", v.Spec.Name, v.State.Phrase())
	}
	return nil
}

// CheckChange refuses a spec that the VM cannot get.
func CheckChange(old, next model.Spec) error {
	if err := next.Validate(); err != nil {
		return fault.New(fault.Invalid, "%w", err)
	}
	if err := model.CheckUser(next.User); err != nil && next.User != old.User {
		return fault.New(fault.Invalid, "%w", err)
	}
	if next.DiskSize < old.DiskSize {
		return shrinks("disk size", old.DiskSize, next.DiskSize)
	}
	if next.WorkDiskSize < old.WorkDiskSize {
		return shrinks("work disk size", old.WorkDiskSize, next.WorkDiskSize)
	}
	if next.Memory != old.Memory {
		return limit.CheckMemory(next.Memory)
	}
	return nil
}

func shrinks(what string, old, next model.Bytes) error {
	return fault.New(fault.Invalid, "%s: %v is less than the present %v, and disks only grow", what, next, old)
}

// HasMemory reports whether something would be lost with a VM's memory.
func HasMemory(v model.VM) bool {
	return v.State == model.Running || v.State == model.Paused || v.State == model.Suspended
}

// StillRuns refuses to delete a VM without force.
func StillRuns(v model.VM) error {
	f := fault.New(fault.WrongState, "VM %s is %s", v.Spec.Name, v.State.Phrase())
	if v.State == model.Suspended {
		return f.WithHint("`banger resume %s` lets it continue; with --force it is deleted, and its memory with it", v.Spec.Name)
	}
	return f.WithHint("stop it first, or delete it with --force")
}

// MayReplace refuses a VM that has more to lose than its disks, unless that is wanted.
func MayReplace(v model.VM, force bool) error {
	switch v.State {
	case model.Stopped, model.Failed:
		return nil
	case model.Running, model.Paused, model.Suspended, model.Broken:
		if force {
			return nil
		}
		return fault.New(fault.WrongState, "VM %s is %s, and what it is now would be lost", v.Spec.Name, v.State.Phrase()).
			WithHint("stop it first, or restore with --force")
	}
	return fault.New(fault.WrongState, "VM %s is %s", v.Spec.Name, v.State.Phrase())
}

// NameTaken refuses a name that v has.
func NameTaken(v model.VM) error {
	return fault.New(fault.Exists, "a VM named %q exists already (%s)", v.Spec.Name, v.State).
		WithHint("choose another name, or delete it with `banger vm delete %s`", v.Spec.Name)
}
