package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/render"
	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/model"
)

func newShowCmd(a *command.App) *cobra.Command {
	var timeline bool
	k := vmKind()
	k.Print = func(ctx context.Context, a *command.App, client *api.Client, vm model.VM) error {
		return runShow(ctx, vm, timeline, client, a)
	}
	cmd := k.ShowCmd(a)
	cmd.Long = "Shows the VM's record and the steps of its last start."
	cmd.Example = "banger vm show web\nbanger vm show --timeline web\nbanger vm show --json web | jq .state"
	cmd.Flags().BoolVar(&timeline, "timeline", false, "draw the steps of the last start as bars instead")
	return cmd
}

// runShow prints a VM for a person.
func runShow(ctx context.Context, vm model.VM, timeline bool, client *api.Client, a *command.App) error {
	if timeline && vm.Boot == nil {
		return fault.New(fault.WrongState, "%s has not been started yet", vm.Spec.Name).
			WithHint("banger vm start %s", vm.Spec.Name)
	}
	rel := relativesOf(ctx, client, vm)
	style, columns := a.Style(a.Out), ui.Columns(a.Out)
	if timeline {
		return render.Timeline(a.Out, columns, style, vm, rel)
	}
	if err := ui.Pairs(a.Out, style, render.VM(vm, rel, style, time.Now())); err != nil {
		return err
	}
	return render.Steps(a.Out, columns, style, vm, rel)
}

// relativesOf asks for the relatives of a VM. An answer that is missing leaves its field empty; ids
// are then shown instead of names.
func relativesOf(ctx context.Context, client *api.Client, vm model.VM) render.Relatives {
	var r render.Relatives
	if snaps, err := client.Snapshots().List(ctx); err == nil {
		r.Snapshots = snaps
	}
	status, err := client.Daemon().Status(ctx)
	if err != nil || len(status.Recommendations) == 0 || vm.Runtime != nil && vm.Runtime.Driver != status.Driver {
		return r
	}
	if image, err := client.Images().Get(ctx, vm.Spec.ImageID); err == nil {
		r.Advice, r.Init = status.Recommendations, image.Init
	}
	return r
}
