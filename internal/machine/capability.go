package machine

import (
	"context"

	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/vmm"
)

// Capability is one feature of machines. Its hooks are the optional interfaces below. They are
// called in the order of Host.Capabilities, cleanups in reverse. Hooks are called concurrently for
// different machines, and not for one. A capability never reaches whoever calls it.
type Capability interface {
	Name() string // stable: part of step names and of stored records
}

// Hooks of one run of a machine. Each has one method with a request struct.
type (
	// Preflighter looks whether a start of a VM can succeed. It changes nothing.
	Preflighter interface {
		Preflight(ctx context.Context, req PreflightRequest) error
	}

	// HostPreparer makes what a machine needs on the host before it exists.
	// Cleanup follows, also after a PrepareHost that failed or was cut off anywhere.
	HostPreparer interface {
		PrepareHost(ctx context.Context, req HostRequest) error
	}

	// MachineContributor adds drives, cards or kernel arguments. It is pure: it makes and changes
	// nothing, returns the same for the same Subject, and is called for machines that never start.
	MachineContributor interface {
		ContributeMachine(ctx context.Context, req MachineRequest) error
	}

	// GuestContributor adds to the guest's identity. It changes nothing on the host, and may be
	// called any number of times, also for templates.
	GuestContributor interface {
		ContributeGuest(ctx context.Context, req GuestRequest) error
	}

	// NetworkContributor adds the configuration of the guest's cards. It is pure. The guest gets it
	// with its identity, and again whenever it is resumed or thawed: the host's side may be new.
	NetworkContributor interface {
		ContributeNetwork(ctx context.Context, req NetworkRequest) error
	}

	// PostStarter acts when a VM's guest has its identity. An error fails the start. It is called
	// again if a crash of the daemon cut the start off and recovery completes it.
	PostStarter interface {
		PostStart(ctx context.Context, req PostStartRequest) error
	}

	// PreStopper acts before a running VM's guest is asked to power off, while its agent answers.
	// An error is logged and does not keep the VM from stopping. A killed or crashed VM has none.
	PreStopper interface {
		PreStop(ctx context.Context, req PreStopRequest) error
	}

	// Cleaner removes what PrepareHost and PostStart made. It is idempotent, copes with all, part
	// or nothing of it, and also runs for machines without a record, of which only the id may be
	// known. So whatever a capability holds on the host must be derivable from the machine's id.
	Cleaner interface {
		Cleanup(ctx context.Context, req CleanupRequest) error
	}
)

// Hooks of a VM's life, from its creation to its deletion. Machines without a record have none.
type (
	// Creator acts when a VM's record was stored for the first time. What it makes or leases lasts
	// until Deleted. An error fails the creation, and Deleted follows.
	Creator interface {
		Created(ctx context.Context, req LifeRequest) error
	}

	// Deleter releases what Created made. It is idempotent. An error keeps the record.
	Deleter interface {
		Deleted(ctx context.Context, req LifeRequest) error
	}

	// ConfigChanger takes up a changed spec, of a VM that runs or is stopped.
	ConfigChanger interface {
		// ApplyConfigChange returns the JSON names of the changed fields that have taken effect.
		// Fields that no capability names take effect at the next start.
		ApplyConfigChange(ctx context.Context, req ChangeRequest) (applied []string, err error)
	}

	// Observer gets all records after one was created, renamed, started, stopped or deleted.
	Observer interface {
		RecordsChanged(ctx context.Context, vms []model.VM) error
	}
)

// PreflightRequest is the VM as it would start.
type PreflightRequest struct{ Subject }

// HostRequest is the machine that is being started.
type HostRequest struct {
	Subject
	StoreFact FactWriter
	Report    step.Reporter
}

// MachineRequest carries the description to add to.
type MachineRequest struct {
	Subject
	Machine *vmm.Machine
}

// GuestRequest carries the document to add to. Sizes are those of the writable drives, by serial.
type GuestRequest struct {
	Subject
	Sizes  map[string]model.Bytes
	Assume *proto.Assume
}

// NetworkRequest carries the configuration to add to: one element per card.
type NetworkRequest struct {
	Subject
	Networks *[]proto.Network
}

// PostStartRequest is the VM that has come up.
type PostStartRequest struct {
	Subject
	StoreFact FactWriter
	Agent     Agent
}

// PreStopRequest is the VM that is going to stop.
type PreStopRequest struct {
	Subject
	Agent Agent
}

// CleanupRequest is the machine whose run has ended.
type CleanupRequest struct {
	Subject
	StoreFact FactWriter
}

// LifeRequest is a VM that was created or is being deleted.
type LifeRequest struct {
	Subject
	StoreFact FactWriter
}

// ChangeRequest is a VM whose spec has changed. New.Spec is validated and not yet stored.
type ChangeRequest struct {
	Old, New model.VM
	Machine  *Machine // nil unless it runs
}
