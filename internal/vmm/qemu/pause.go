package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"banger/internal/fault"
	"banger/internal/pace"
	"banger/internal/regular"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

var errClosed = fault.New(fault.Canceled, "the instance is closed")

// contTimeout bounds the undoing of a halt, which has a context of its own.
const contTimeout = 10 * time.Second

// Pause halts the machine: see vmm.Pauser. It waits for a Save that is under way. QEMU's stop
// command drains and flushes the drives.
func (in *instance) Pause(ctx context.Context) error {
	err := in.locked(ctx, func(running bool) error {
		if !running {
			return nil
		}
		if err := in.ask(ctx, "stop", nil, nil); err != nil {
			return errors.Join(err, in.cont(ctx))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("pausing machine %s: %w", in.s.ID, err)
	}
	return nil
}

// Freeze stops QEMU's process: see vmm.Freezer. A file says so to the next daemon.
func (in *instance) Freeze() error {
	if err := regular.Write(runPath(in.s, frozenName), nil, 0o600); err != nil {
		return fmt.Errorf("freezing machine %s: %w", in.s.ID, err)
	}
	return in.Signal(syscall.SIGSTOP)
}

// thaw undoes Freeze. The file goes last, so that a thaw that was cut off is repeated.
func thaw(s state, proc *process.Process) error {
	if !isFrozen(s) {
		return nil
	}
	if err := proc.Signal(syscall.SIGCONT); err != nil {
		return err
	}
	return os.Remove(runPath(s, frozenName))
}

// isFrozen reports whether Freeze has stopped QEMU, which does not answer.
func isFrozen(s state) bool {
	_, err := os.Lstat(runPath(s, frozenName))
	return err == nil
}

// Resume continues the machine: see vmm.Pauser. It waits for a Save that is under way.
func (in *instance) Resume(ctx context.Context) error {
	if err := thaw(in.s, in.proc); err != nil {
		return fmt.Errorf("resuming machine %s: %w", in.s.ID, err)
	}
	err := in.locked(ctx, func(running bool) error {
		if running {
			return nil
		}
		if err := in.occupyAgent(ctx); err != nil {
			return err
		}
		return in.ask(ctx, "cont", nil, nil)
	})
	if err != nil {
		return fmt.Errorf("resuming machine %s: %w", in.s.ID, err)
	}
	return nil
}

// locked calls do while no one else halts or continues the machine. running is whether it runs.
func (in *instance) locked(ctx context.Context, do func(running bool) error) error {
	select {
	case in.runLock <- struct{}{}:
		defer func() { <-in.runLock }()
	case <-in.closed:
		return over(in.proc)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	status, err := in.status(ctx)
	if err != nil {
		return err
	}
	return do(status.Running)
}

// runState is QEMU's answer to query-status (qapi/run-state.json of QEMU 7.2).
type runState struct {
	Running bool   `json:"running"` // its vCPUs run
	Status  string `json:"status"`  // "running", "paused", "io-error", "inmigrate", ...
}

// Halted reports whether and why the machine is halted: see vmm.HaltReporter. A machine that loads
// its state or has just ended is not halted.
func (in *instance) Halted(ctx context.Context) (vmm.Halt, error) {
	if isFrozen(in.s) {
		return vmm.Halted, nil
	}
	s, err := in.status(ctx)
	switch {
	case err != nil:
		return vmm.NotHalted, fmt.Errorf("asking machine %s for its state: %w", in.s.ID, err)
	case s.Status == "io-error":
		return vmm.HaltedFull, nil
	case s.Status == "paused":
		return vmm.Halted, nil
	}
	return vmm.NotHalted, nil
}

func (in *instance) status(ctx context.Context) (runState, error) {
	var s runState
	err := in.ask(ctx, "query-status", nil, &s)
	return s, err
}

// cont undoes a halt, even if ctx has ended. If the machine has ended, this is no error.
func (in *instance) cont(ctx context.Context) error {
	ctx, cancel := pace.Context(context.WithoutCancel(ctx), contTimeout, "answer")
	defer cancel()
	err := in.ask(ctx, "cont", nil, nil)
	select {
	case <-in.proc.Done():
		return nil
	default:
		return err
	}
}
