package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// startFailed records a failed start: error when all could be undone, stopped when the user called it off, suspended when the VM can still go on from its
// memory, broken when something is left over.
func (m *Manager) startFailed(ctx context.Context, e *entry, suspended bool, cause error) error {
	var failed *step.Error
	undone := !errors.As(cause, &failed) || failed.Undo == nil
	err := m.update(ctx, e, func(v *model.VM) {
		v.LastError = m.failure(*v, cause)
		switch {
		case !undone:
			v.State = model.Broken
		case suspended:
			v.State, v.Runtime = model.Suspended, nil
		case ctx.Err() != nil:
			v.State, v.Runtime = model.Stopped, nil
		default:
			v.State, v.Runtime = model.Failed, nil
		}
	})
	if failed != nil && inGuest(failed.Step) && ctx.Err() == nil {
		m.logConsole(ctx, e.record())
	}
	return errors.Join(fmt.Errorf("starting VM %s: %w", e.record().Spec.Name, cause), err)
}

// inGuest tells whether a step waits for the guest, so that its console tells why the step failed.
func inGuest(step string) bool { return step == "agent" || step == "assume" }

// consoleTail is how much of a console goes to the daemon's log.
const consoleTail = 2 << 10

// logConsole keeps a guest's last words in the daemon's log: the console's own log goes with the VM, and what was made for a run is
// deleted when its start fails. The log quotes what it holds, so a guest cannot forge lines of it.
func (m *Manager) logConsole(ctx context.Context, v model.VM) {
	f, err := os.Open(m.Layout.VM(v.ID).ConsoleLog())
	if err != nil {
		return // the machine said nothing
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return
	}
	tail := make([]byte, min(size, consoleTail))
	n, _ := f.ReadAt(tail, size-int64(len(tail)))
	m.logger(v).WarnContext(ctx, "the guest's last words", "console", string(tail[:n]))
}

// failure turns an error into what the record keeps of it.
func (m *Manager) failure(v model.VM, err error) *model.Failure {
	f := &model.Failure{Time: time.Now().UTC(), Msg: err.Error(), Hint: fault.HintOf(err)}
	var failed *step.Error
	if !errors.As(err, &failed) {
		return f
	}
	f.Step, f.Msg = failed.Step, failed.Err.Error()
	if failed.Undo != nil {
		f.Msg += " (left over: " + failed.Undo.Error() + ")"
	}
	files := m.Layout.VM(v.ID)
	switch {
	case failed.Step == "vmm":
		f.Log = files.VMMLog()
	case inGuest(failed.Step):
		f.Log = files.ConsoleLog()
	default:
		f.Log = m.Layout.DaemonLog()
	}
	return f
}
