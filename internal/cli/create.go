package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger/internal/cli/command"
	"banger/internal/cli/ui"
	"banger/internal/cli/vmflag"
	"banger/internal/model"
	"banger/internal/step"
)

type createOptions struct {
	spec   vmflag.Spec
	remove bool
	json   bool
}

func newCreateCmd(a *command.App) *cobra.Command {
	var o createOptions
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create a VM without starting it",
		Long: `If the image or the kernel is missing, banger makes it first.

Prints the VM's name.`,
		Example: "banger vm create --name dev --memory 2G --vcpu 2\nbanger vm start dev",
		Args:    command.WantArgs(),
	}
	cmd.RunE = command.Interruptible(func(ctx context.Context, _ []string) error {
		create, err := o.spec.NewVM(a, cmd.Flags())
		if err != nil {
			return err
		}
		return runCreate(ctx, create, o, a)
	})
	addSpec(a, cmd, &o.spec)
	cmd.Flags().BoolVar(&o.remove, "rm", false, "delete the VM when it stops")
	command.AddJSON(cmd, &o.json)
	return cmd
}

func runCreate(ctx context.Context, create model.Create, o createOptions, a *command.App) error {
	if o.remove {
		create.Remove = model.RemoveOnStop
	}
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	var vm model.VM
	err = a.WithProgress("Creating a VM", func(report step.Reporter) error {
		vm, err = client.VMs().Create(ctx, create, report)
		return err
	})
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(a.Out, vm)
	}
	fmt.Fprintln(a.Out, ui.Clean(vm.Spec.Name))
	return nil
}
