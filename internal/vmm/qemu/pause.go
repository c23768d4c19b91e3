package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"banger/internal/fault"
)

var errClosed = fault.New(fault.Canceled, "let go of")

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
	case in.runLock <- struct{}{}:
		return nil
	case <-in.closed:
		return errClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (in *instance) unlockRun() { <-in.runLock }

// runState is QEMU's answer to query-status (qapi/run-state.json of QEMU 7.2).
type runState struct {
	Running bool   `json:"running"` // its vCPUs do
	Status  string `json:"status"`  // "running", "paused", "inmigrate", ...
}

func (in *instance) status(ctx context.Context) (runState, error) {
	var s runState
	err := in.ask(ctx, "query-status", nil, &s)
	return s, err
}

func (in *instance) runs(ctx context.Context) (bool, error) {
	s, err := in.status(ctx)
	return s.Running, err
}

// goOn undoes a halt, whatever has become of ctx. A machine that has ended is success.
func (in *instance) goOn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), contTimeout)
	defer cancel()
	err := in.command(ctx, "cont", nil)
	select {
	case <-in.proc.Done():
		return nil
	default:
		return err
	}
}
