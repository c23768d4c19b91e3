package vm

import (
	"context"

	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/step"
)

// Store keeps the records. It is safe for concurrent use. If a call returns nil, the change is
// durable.
type Store interface {
	// PutVM inserts or replaces a record. If another VM has the name, it returns fault.Exists.
	PutVM(ctx context.Context, v model.VM) error
	// VMs returns all records, the oldest first. One unreadable record fails the whole call.
	VMs(ctx context.Context) ([]model.VM, error)
	DeleteVM(ctx context.Context, id string) error
}

// Images finds root filesystems.
type Images interface {
	machine.Images
	// Ensure returns the image that ref means, after making it (pull, build) if it is missing.
	Ensure(ctx context.Context, ref string, report step.Reporter) (model.Image, error)
}

// Kernels finds guest kernels.
type Kernels interface {
	machine.Kernels
	// Ensure returns the kernel that ref means, after making it if it is missing.
	Ensure(ctx context.Context, ref string, report step.Reporter) (model.Kernel, error)
}
