package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/item"
	"banger/internal/model"
	"banger/internal/step"
)

func newPauseCmd(a *command.App) *cobra.Command {
	return newHoldCmd(a, "Pausing", api.VMs.Pause, eachVMCmd{
		use:   "pause",
		short: "Pause VMs, which stay in memory",
		long: `A paused VM keeps its memory and uses no CPU time. Its processes do not notice the pause, except that the clock jumps.

Pausing only delays running commands and SSH sessions. They continue when the VM is resumed.`,
		offers: inState(model.Running),
	})
}

func newResumeCmd(a *command.App) *cobra.Command {
	cmd := newHoldCmd(a, "Resuming", api.VMs.Resume, eachVMCmd{
		use:    "resume",
		short:  "Resume paused and suspended VMs",
		long:   "The processes of each VM continue where they were.",
		offers: inState(model.Paused, model.Suspended),
	})
	cmd.SuggestFor = []string{"unpause", "continue", "wake"}
	return cmd
}

func newSuspendCmd(a *command.App) *cobra.Command {
	cmd := newHoldCmd(a, "Suspending", api.VMs.Suspend, eachVMCmd{
		use:   "suspend",
		short: "Suspend VMs: save their memory to disk",
		long: `A suspended VM uses neither memory nor CPU time. When it is resumed, its processes continue where they were, even if the host was rebooted in between.

Suspending ends running commands and SSH sessions.

banger can suspend a VM that nobody uses: see ` + "`banger vm set --idle-suspend`.",
		offers: inState(model.Running, model.Paused),
	})
	cmd.SuggestFor = []string{"hibernate", "sleep"}
	return cmd
}

// newHoldCmd returns a command that halts VMs or lets them continue, which one API call does.
func newHoldCmd(a *command.App, title string, call func(api.VMs, context.Context, string, step.Reporter) (model.VM, error),
	c eachVMCmd) *cobra.Command {
	c.example = "banger " + c.use + " web\nbanger " + c.use + " web db"
	c.run = func(ctx context.Context, names []string) error {
		return vmKind().EachNoting(ctx, a, title, names, func(ctx context.Context, t item.Task) error {
			_, err := call(t.Client.VMs(), ctx, t.Name, t.Report)
			return err
		})
	}
	return newEachVMCmd(a, c)
}
