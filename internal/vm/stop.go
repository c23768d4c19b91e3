package vm

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// Stop asks the guest to power off, waits for timeout (nil: the configured one; 0: not at all), and then ends the machine. Stopping a
// stopped VM succeeds. Once begun, a stop goes on although ctx ends.
func (m *Manager) Stop(ctx context.Context, ref string, timeout *time.Duration, report step.Reporter) (model.VM, error) {
	e, ctx, release, err := m.begin(ctx, ref, "stop")
	if err != nil {
		return model.VM{}, err
	}
	defer release()
	if err := m.stop(ctx, e, timeout, report); err != nil {
		return e.record(), err
	}
	v := e.record()
	m.removeIfAsked(ctx, e)
	m.observe(ctx)
	return v, nil
}

func (m *Manager) stop(ctx context.Context, e *entry, timeout *time.Duration, report step.Reporter) error {
	ctx = context.WithoutCancel(ctx)
	v := e.record()
	grace := m.StopTimeout
	if timeout != nil {
		grace = *timeout
	}
	switch v.State {
	case model.Stopped, model.Failed:
		report.Report(step.Event{Step: "stop", Phase: step.Skipped, Detail: "already stopped"})
		return nil
	case model.Broken:
		return m.settle(ctx, e, nil)
	case model.Running:
	case model.Paused, model.Suspended: // only a guest that runs can power off
		if grace <= 0 {
			return m.settle(ctx, e, nil)
		}
		if err := m.resume(ctx, e, report); err != nil && v.State == model.Suspended {
			return err
		} else if err != nil {
			m.logger(v).WarnContext(ctx, "the guest cannot be let go on; its machine is ended", "error", err)
			grace = 0
		}
	default:
		return fault.New(fault.WrongState, "VM %s is %s", v.Spec.Name, v.State)
	}
	if err := m.update(ctx, e, func(v *model.VM) { v.State = model.Stopping }); err != nil {
		return err
	}
	end := report.Track("power-off", "")
	err := m.powerOff(ctx, e.machine(), grace)
	end(err)
	if err != nil {
		m.logger(v).WarnContext(ctx, "the guest did not power off; its machine is ended", "error", err)
	}
	return m.settle(ctx, e, nil)
}

// powerOff asks the guest to power off and waits until its machine has ended. The agent is asked first: it knows the image's own way. The
// power button is for guests whose agent does not answer.
func (m *Manager) powerOff(ctx context.Context, l *live, grace time.Duration) error {
	if grace <= 0 || l == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	asked := make(chan error, 1)
	go func() {
		agentCtx, cancel := context.WithTimeout(ctx, grace/2) // one that hangs leaves the rest to the button
		defer cancel()
		err := l.agent.PowerOff(agentCtx)
		if err != nil {
			err = errors.Join(err, l.inst.PowerOff(ctx))
		}
		asked <- err
	}()
	_, err := l.inst.Wait(ctx)
	cancel()
	askErr := <-asked
	if err != nil {
		return fmt.Errorf("no power-off within %v: %w", grace, errors.Join(err, askErr))
	}
	return nil
}

// Kill sends the VM's VMM a signal. It waits for no other operation, so that it also ends one that hangs. After a signal that ends processes it returns when
// the VM has come to rest.
func (m *Manager) Kill(ctx context.Context, ref string, sig syscall.Signal) (model.VM, error) {
	e, err := m.find(ref)
	if err != nil {
		return model.VM{}, err
	}
	if e.record().State == model.Suspended && fatal(sig) {
		return m.giveUpMemory(ctx, e)
	}
	l := e.machine()
	if l == nil {
		return e.record(), nothingToKill(e.record())
	}
	if fatal(sig) {
		l.killed.Store(true)
	}
	if err := l.inst.Signal(sig); err != nil {
		return e.record(), fmt.Errorf("sending %v to the VMM of %s: %w", sig, e.record().Spec.Name, err)
	}
	if !fatal(sig) {
		return e.record(), nil
	}
	waitCtx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	exit, err := l.inst.Wait(waitCtx)
	if err != nil {
		return e.record(), fmt.Errorf("waiting for the VMM of %s to end: %w", e.record().Spec.Name, err)
	}
	m.ended(e, l, exit)
	return e.record(), nil
}

func nothingToKill(v model.VM) error {
	f := fault.New(fault.WrongState, "VM %s is not running: it is %s", v.Spec.Name, v.State)
	switch v.State {
	case model.Starting:
		return f.WithHint("to call its start off, delete it with `banger vm delete --force %s`", v.Spec.Name)
	case model.Stopped, model.Failed:
		return f.WithHint("there is nothing to kill; to delete it: `banger vm delete %s`", v.Spec.Name)
	}
	return f
}

// giveUpMemory is what a signal does to a VM that has no VMM any more: it is stopped as if its power had failed.
func (m *Manager) giveUpMemory(ctx context.Context, e *entry) (model.VM, error) {
	ctx, release, err := e.lock.acquire(ctx, "kill")
	if err != nil {
		return e.record(), err
	}
	defer release()
	if v := e.record(); v.State != model.Suspended {
		return v, fault.New(fault.WrongState, "VM %s is %s by now", v.Spec.Name, v.State)
	}
	if err := m.settle(ctx, e, nil); err != nil {
		return e.record(), err
	}
	v := e.record()
	m.removeIfAsked(ctx, e)
	m.observe(ctx)
	return v, nil
}

// fatal tells whether a VMM, which handles none but a few signals, ends on sig.
func fatal(sig syscall.Signal) bool {
	switch sig {
	case syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGSEGV:
		return true
	}
	return false
}

// Restart stops the VM if it runs, and starts it.
func (m *Manager) Restart(ctx context.Context, ref string, timeout *time.Duration, report step.Reporter) (model.VM, error) {
	e, ctx, release, err := m.begin(ctx, ref, opRestart)
	if err != nil {
		return model.VM{}, err
	}
	defer release()
	if err := m.stop(ctx, e, timeout, report); err != nil {
		return e.record(), err
	}
	if ctx.Err() != nil {
		m.removeIfAsked(ctx, e)
		m.observe(ctx)
		return e.record(), fmt.Errorf("stopped, not started again: %w", context.Cause(ctx))
	}
	err = m.start(ctx, e, origin{}, report)
	m.observe(ctx)
	return e.record(), err
}
