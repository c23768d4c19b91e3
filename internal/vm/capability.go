package vm

import (
	"context"

	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/vmm"
)

// Capability is one feature of a VM that hooks into its life. What it hooks into is found by asking for the interfaces below;
// each has one method with a request struct, so that a field more breaks nobody.
//
// A capability is built with exactly what it needs and never reaches the manager. Hooks are called in the order in
// which the capabilities were given to the manager, clean-ups in the reverse order.
type Capability interface {
	Name() string // stable: it is part of step names and of stored records
}

// Preflighter looks whether a start can succeed, and changes nothing.
type Preflighter interface {
	Preflight(ctx context.Context, req PreflightRequest) error
}

// PreflightRequest is the VM as it would start.
type PreflightRequest struct{ VM model.VM }

// HostPreparer makes what the VM needs on the host before its machine exists. The manager records that the
// capability may hold something before it calls PrepareHost, and calls Cleanup also after a PrepareHost that failed.
type HostPreparer interface {
	PrepareHost(ctx context.Context, req HostRequest) error
}

// HostRequest is the VM that is being started.
type HostRequest struct {
	VM     model.VM
	Report step.Reporter
}

// MachineContributor adds drives, NICs or kernel arguments.
type MachineContributor interface {
	ContributeMachine(ctx context.Context, req MachineRequest) error
}

// MachineRequest carries the machine to add to.
type MachineRequest struct {
	VM      model.VM
	Machine *vmm.Machine
}

// GuestContributor adds to what the guest is told to be.
type GuestContributor interface {
	ContributeGuest(ctx context.Context, req GuestRequest) error
}

// GuestRequest carries the document to add to.
type GuestRequest struct {
	VM     model.VM
	Assume *proto.Assume
}

// PostStarter acts when the guest has its identity. An error fails the start.
type PostStarter interface {
	PostStart(ctx context.Context, req PostStartRequest) error
}

// PostStartRequest is the VM that has come up.
type PostStartRequest struct {
	VM    model.VM
	Agent Agent
}

// Cleaner takes away what PrepareHost and PostStart made. It is idempotent and finds anything from nothing to all of it; "already gone" is
// success.
type Cleaner interface {
	Cleanup(ctx context.Context, req CleanupRequest) error
}

// CleanupRequest is the VM whose run has ended.
type CleanupRequest struct {
	VM model.VM
}

// ConfigChanger takes up a changed spec while the VM runs, or while it is stopped.
type ConfigChanger interface {
	// ApplyConfigChange returns the JSON names of the changed fields that have taken effect. Fields that nobody claims take
	// effect at the next start.
	ApplyConfigChange(ctx context.Context, req ChangeRequest) (applied []string, err error)
}

// ChangeRequest is a VM whose spec has changed. New.Spec is validated and not yet stored.
type ChangeRequest struct {
	Old, New model.VM
	Machine  vmm.Instance // nil unless it runs
	Agent    Agent        // likewise
}

// Observer is told what VMs there are after that has changed: created, renamed, started, stopped, deleted.
type Observer interface {
	RecordsChanged(ctx context.Context, vms []model.VM) error
}
