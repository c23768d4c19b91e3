package vm

import (
	"context"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
)

// watch waits in the background for the VM's machine to end, and then brings the VM to rest. It gives up at Close.
func (m *Manager) watch(e *entry) {
	l := e.machine()
	m.wg.Go(func() {
		exit, err := l.inst.Wait(m.life)
		if err != nil {
			return // Close, or an operation let go of this machine and settles the VM itself
		}
		m.ended(e, l, exit)
	})
}

// ended settles a VM whose machine has ended. Of several callers for one machine the first does it.
func (m *Manager) ended(e *entry, l *live, exit vmm.Exit) {
	ctx, release, err := e.lock.acquire(m.life, "settle")
	if err != nil {
		return // deleted, or Close: the next start-up settles it
	}
	defer release()
	if e.machine() != l {
		return
	}
	v := e.record()
	if v.State == model.Suspended { // a machine that would not end when its memory had been kept
		if err := m.endSuspended(context.WithoutCancel(ctx), e); err != nil {
			m.logger(v).ErrorContext(ctx, "taking away what a suspended VM left", "error", err)
		}
		return
	}
	if err := m.settle(ctx, e, m.exitFailure(v, exit)); err != nil {
		m.logger(v).ErrorContext(ctx, "settling a VM whose machine ended", "error", err)
		return
	}
	m.logger(v).InfoContext(ctx, "machine ended", "reason", exit.Reason, "detail", exit.Detail)
	m.removeIfAsked(ctx, e)
	m.observe(ctx)
}

// exitFailure is what the record keeps of an end that nobody asked for; nil for one that the guest or the user wanted.
func (m *Manager) exitFailure(v model.VM, exit vmm.Exit) *model.Failure {
	switch exit.Reason {
	case vmm.ExitPowerOff, vmm.ExitReboot, vmm.ExitShutdown, vmm.ExitKilled:
		return nil
	}
	err := machineEnded(exit)
	files := m.Layout.VM(v.ID)
	f := &model.Failure{Time: time.Now().UTC(), Msg: err.Error(), Hint: fault.HintOf(err), Log: files.ConsoleLog()}
	if exit.Reason == vmm.ExitCrashed {
		f.Log = files.VMMLog()
	}
	return f
}
