package vm

import (
	"context"
	"errors"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/vmm/console"
)

// failure turns an error into what the record keeps of it.
func (c *core) failure(v model.VM, err error) *model.Failure {
	f := &model.Failure{Time: time.Now().UTC(), Msg: err.Error(), Hint: fault.HintOf(err)}
	var failed *step.Error
	if !errors.As(err, &failed) {
		return f
	}
	f.Step, f.Msg = failed.Step, failed.Err.Error()
	if failed.Undo != nil {
		f.Msg += " (left over: " + failed.Undo.Error() + ")"
	}
	files := c.dirsOf(v)
	switch {
	case failed.Step == "vmm":
		f.Log = files.VMMLog()
	case inGuest(failed.Step):
		f.Log = files.ConsoleLog()
	default:
		f.Log = c.Layout.DaemonLog()
	}
	return f
}

// inGuest reports whether a step waits for the guest, so that its console explains a failure.
func inGuest(step string) bool { return step == "agent" || step == "assume" }

// consoleTail is how much of a console goes to the daemon's log.
const consoleTail = 2 << 10

// logConsole keeps a guest's last words in the daemon's log: the console's own log is removed with
// the VM. The log quotes what it holds, so a guest cannot forge lines of it.
func (c *core) logConsole(ctx context.Context, v model.VM) {
	if tail := console.Tail(c.dirsOf(v).ConsoleLog(), consoleTail); len(tail) > 0 {
		c.logger(v).WarnContext(ctx, "the guest's last words", "console", string(tail))
	}
}
