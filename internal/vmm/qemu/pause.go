package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"banger/internal/fault"
)

// contTimeout bounds the undoing of a halt, which happens with a context of its own.
const contTimeout = 10 * time.Second

// Pause halts the machine: see vmm.Pauser. It waits for a Save that is at work. QEMU's stop drains and flushes the drives.
func (in *instance) Pause(ctx context.Context) error {
	if err := in.lockRun(ctx); err != nil {
		return fmt.Errorf("pausing machine %s: %w", in.s.ID, err)
	}
	defer in.unlockRun()
	running, err := in.runs(ctx)
	if err != nil || !running {
		return err
	}
	if err := in.command(ctx, "stop", nil); err != nil {
		return errors.Join(err, in.goOn(ctx))
	}
	return nil
}

// Resume lets the machine go on: see vmm.Pauser. It waits for a Save that is at work.
func (in *instance) Resume(ctx context.Context) error {
	if err := in.lockRun(ctx); err != nil {
		return fmt.Errorf("resuming machine %s: %w", in.s.ID, err)
	}
	defer in.unlockRun()
	running, err := in.runs(ctx)
	if err != nil || running {
		return err
	}
	return in.command(ctx, "cont", nil)
}

// lockRun keeps others from halting the machine and from letting it go on.
func (in *instance) lockRun(ctx context.Context) error {
	select {
	case in.running <- struct{}{}:
		return nil
	case <-in.closed:
		return fault.New(fault.Canceled, "machine %s was let go of", in.s.ID)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (in *instance) unlockRun() { <-in.running }

// runs tells whether the machine's vCPUs run (query-status, qapi/run-state.json of QEMU 7.2).
func (in *instance) runs(ctx context.Context) (bool, error) {
	var status struct {
		Running bool   `json:"running"`
		Status  string `json:"status"`
	}
	if err := in.ask(ctx, "query-status", nil, &status); err != nil {
		return false, err
	}
	return status.Running, nil
}

// goOn undoes a halt whose outcome is not known, or that is of no use any more, whatever has become of ctx.
func (in *instance) goOn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), contTimeout)
	defer cancel()
	return in.command(ctx, "cont", nil)
}
