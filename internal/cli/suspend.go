package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/model"
	"banger/internal/step"
)

// newPauseCmd and the next two return commands that are at the top as well as among the vm commands.
func newPauseCmd(a *app) *cobra.Command {
	cmd := newHoldCmd(a, "pause", "Pausing", (*api.Client).PauseVM)
	cmd.Short = "Halt VMs in memory"
	cmd.Long = "A paused VM takes up its memory and no CPU. Its processes do not notice, but for the clock, and commands under way and ssh sessions wait."
	cmd.ValidArgsFunction = a.completeVMs(func(s model.State) bool { return s == model.Running })
	return cmd
}

func newResumeCmd(a *app) *cobra.Command {
	cmd := newHoldCmd(a, "resume", "Resuming", (*api.Client).ResumeVM)
	cmd.Short = "Let paused and suspended VMs go on"
	cmd.SuggestFor = []string{"unpause", "continue", "wake"}
	cmd.ValidArgsFunction = a.completeVMs(func(s model.State) bool { return s == model.Paused || s == model.Suspended })
	return cmd
}

func newSuspendCmd(a *app) *cobra.Command {
	cmd := newHoldCmd(a, "suspend", "Suspending", (*api.Client).SuspendVM)
	cmd.Short = "Keep VMs' memory on disk and end their machines"
	cmd.Long = "A suspended VM takes up neither memory nor CPU, and goes on where it was when it is resumed, also after a reboot of the host. Commands under way and ssh sessions are cut off. `banger vm set --idle-suspend` has banger do it."
	cmd.SuggestFor = []string{"hibernate", "sleep"}
	cmd.ValidArgsFunction = a.completeVMs(func(s model.State) bool { return s == model.Running || s == model.Paused })
	return cmd
}

// newHoldCmd returns a command that does one thing with each of the VMs named.
func newHoldCmd(a *app, name, doing string, do func(*api.Client, context.Context, string, step.Reporter) (model.VM, error)) *cobra.Command {
	return &cobra.Command{
		Use:     name + " NAME...",
		Example: "banger " + name + " web\nbanger " + name + " web db",
		Args:    wantArgs("NAME..."),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			return a.eachVMNoting(ctx, doing, args, func(ctx context.Context, client *api.Client, name string, report step.Reporter) error {
				_, err := do(client, ctx, name, report)
				return err
			})
		}),
	}
}
