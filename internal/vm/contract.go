package vm

import (
	"time"

	"banger/internal/step"
)

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
