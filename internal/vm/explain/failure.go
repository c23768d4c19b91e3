package explain

import (
	"errors"
	"time"

	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/step"
	"banger/internal/vmm"
)

// Failure turns an error into what the record keeps of it.
func Failure(layout paths.Layout, v model.VM, err error) *model.Failure {
	f := &model.Failure{Time: time.Now().UTC(), Msg: err.Error(), Hint: fault.HintOf(err)}
	var failed *step.Error
	if !errors.As(err, &failed) {
		return f
	}
	f.Step, f.Msg = failed.Step, failed.Err.Error()
	if failed.Undo != nil {
		f.Msg += " (left over: " + failed.Undo.Error() + ")"
	}
	files := layout.VM(v.ID)
	switch {
	case failed.Step == "vmm":
		f.Log = files.VMMLog()
	case InGuest(failed.Step):
		f.Log = files.ConsoleLog()
	default:
		f.Log = layout.DaemonLog()
	}
	return f
}

// InGuest reports whether a step waits for the guest, so that its console explains a failure.
func InGuest(name string) bool { return name == "agent" || name == "assume" || name == step.PowerOff }

// Exit is what the record keeps of an end that nobody asked for; nil for one that the guest
// or the user wanted.
func Exit(layout paths.Layout, v model.VM, exit vmm.Exit) *model.Failure {
	switch exit.Reason {
	case vmm.ExitPowerOff, vmm.ExitReboot, vmm.ExitShutdown, vmm.ExitKilled:
		return nil
	}
	err := machine.Ended(exit)
	files := layout.VM(v.ID)
	f := &model.Failure{Time: time.Now().UTC(), Msg: err.Error(), Hint: fault.HintOf(err), Log: files.ConsoleLog()}
	if exit.Reason == vmm.ExitCrashed {
		f.Log = files.VMMLog()
	}
	return f
}

// WithoutDisks is what the record keeps of the end of a VM whose disks were removed or replaced
// while it ran.
func WithoutDisks(files paths.VM) *model.Failure {
	return &model.Failure{
		Time: time.Now().UTC(), Msg: "the VM ended while it had other disks than those in " + files.Dir + ": what it wrote is not there",
		Hint: "If you moved its disks away, move them back before you start it. If you removed them, what it wrote is lost. The next start uses the files that are there.",
	}
}
