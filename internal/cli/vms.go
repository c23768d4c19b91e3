package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/item"
	"banger/internal/cli/render"
	"banger/internal/model"
)

// vmKind describes VMs. They have no remove function, because a command deletes several at once.
func vmKind() item.Kind[model.VM] {
	return item.Kind[model.VM]{
		Group: "vm", One: "a VM", Many: "VMs", Arg: "NAME", Example: "web", Label: "names",
		None: "No VMs yet. Make one: banger run",
		List: func(c *api.Client, ctx context.Context) ([]model.VM, error) { return c.VMs().List(ctx) },
		Get: func(c *api.Client, ctx context.Context, ref string) (model.VM, error) {
			return c.VMs().Get(ctx, ref)
		},
		Name:  func(vm model.VM) string { return vm.Spec.Name },
		Names: func(vm model.VM) []string { return []string{vm.Spec.Name} },
		About: func(vm model.VM) string { return fmt.Sprintf("%s, %s", vm.State, render.VMImage(vm)) },
		Table: render.VMs,
		Note:  render.Trouble,
	}
}

// explainVM adds the nearest name to the error of a VM that was not found.
func explainVM(ctx context.Context, client *api.Client, ref string, err error) error {
	return vmKind().Explained(ctx, client, ref, err)
}

// eachVMCmd describes a command that does the same with each VM named.
type eachVMCmd struct {
	use, short, long, example string

	offers func(model.State) bool // the states of VMs that completion offers; nil: all
	run    func(ctx context.Context, names []string) error
}

func newEachVMCmd(a *command.App, c eachVMCmd) *cobra.Command {
	return &cobra.Command{
		Use:               c.use + " NAME...",
		Short:             c.short,
		Long:              c.long,
		Example:           c.example,
		Args:              command.WantArgs("NAME..."),
		RunE:              command.Interruptible(c.run),
		ValidArgsFunction: completeVMs(a, c.offers),
	}
}

// completeVMs completes the names of VMs in a state that pass accepts; nil accepts all.
func completeVMs(a *command.App, pass func(model.State) bool) command.Completer {
	return vmKind().Complete(a, func(vm model.VM) bool { return pass == nil || pass(vm.State) })
}

// completeUsable completes the names of VMs that can run a command: those that run, and those that
// a command wakes.
func completeUsable(a *command.App) command.Completer {
	return vmKind().Complete(a, func(vm model.VM) bool {
		return vm.State == model.Running || vm.State == model.Suspended && vm.Spec.IdleSuspend > 0
	})
}

// inState returns a function that accepts the given states.
func inState(states ...model.State) func(model.State) bool {
	return func(s model.State) bool { return slices.Contains(states, s) }
}

// endable accepts the states in which a VM has a machine, live or saved, that can be ended.
func endable(s model.State) bool { return s.Live() || s == model.Suspended }
