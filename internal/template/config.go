package template

import (
	"context"
	"time"

	"banger/internal/model"
)

// Config says what templates a Pool keeps.
type Config struct {
	Off bool // make none and use none
	// of host disk for all templates; the least recently used are removed; 0: no bound
	Budget model.Bytes

	// Standby is how many machines wait, restored from each template in use.
	Standby int

	// BuildsOnly keeps no machine that boots for a VM. Tests of background builds set it.
	BuildsOnly bool

	// Usual has the disk sizes that most VMs have.
	Usual model.Spec

	// Quiet waits until no operation was under way for d, or ctx ends. Builds begin in such pauses.
	Quiet func(ctx context.Context, d time.Duration) error
}
