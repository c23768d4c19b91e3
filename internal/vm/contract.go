package vm

import (
	"context"
	"time"

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

// Meter counts what happens to VMs. It is safe for concurrent use and never blocks.
type Meter interface {
	// StartDone counts a start from an origin ("boot", "standby" or a model.OriginKind).
	StartDone(origin string, took time.Duration, steps []step.Record)
	StartFailed(step string)
	// Forked counts the children that were made, and how long their parent stood still.
	Forked(children int, pause time.Duration)
	// Standby counts a launch that found a machine on standby, or none.
	Standby(hit bool)
}

// noMeter counts nothing.
type noMeter struct{}

func (noMeter) StartDone(string, time.Duration, []step.Record) {}
func (noMeter) StartFailed(string)                             {}
func (noMeter) Forked(int, time.Duration)                      {}
func (noMeter) Standby(bool)                                   {}
