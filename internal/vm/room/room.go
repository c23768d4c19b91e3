// Package room is what the free space of the host allows to VMs.
package room

import (
	"banger/internal/fault"
	"banger/internal/model"
)

// Room is what the free space of the host allows. It is safe for concurrent use.
type Room interface {
	// Check returns an error if the host has too little space for what only saves time.
	Check() error
	// CheckAt is Check for the file system of a directory.
	CheckAt(dir string) error
	// Held returns why a VM that runs is held; nil if it is not.
	Held(id string) *model.Hold
}

// Unlimited allows everything.
type Unlimited struct{}

// Check implements Room.
func (Unlimited) Check() error { return nil }

// CheckAt implements Room.
func (Unlimited) CheckAt(string) error { return nil }

// Held implements Room.
func (Unlimited) Held(string) *model.Hold { return nil }

// Shown returns a record with what is shown and not stored.
func Shown(v model.VM, r Room) model.VM {
	if v.State == model.Running {
		v.Held = r.Held(v.ID)
	}
	return v
}

// CheckNotHeld refuses what needs a guest that answers while the VM is held.
func CheckNotHeld(v model.VM, r Room) error { return Explain(v, r, nil) }

// Explain adds to an error that the VM is held, if it is.
func Explain(v model.VM, r Room, err error) error {
	held := Shown(v, r).Held
	if held == nil {
		return err
	}
	f := fault.New(fault.WrongState, "VM %s is held: %v", v.Spec.Name, held)
	if err != nil {
		f = fault.New(fault.WrongState, "VM %s is held: %v: %w", v.Spec.Name, held, err)
	}
	return f.WithHint("It continues by itself when there is space. %s", fault.Relief)
}
