package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banger/internal/cli/command"
	"banger/internal/cli/render"
	"banger/internal/cli/ui"
	"banger/internal/cli/vmflag"
	"banger/internal/fault"
	"banger/internal/model"
)

type setOptions struct {
	spec     vmflag.Spec
	unsetEnv []string
	json     bool
	name     string
}

func newSetCmd(a *command.App) *cobra.Command {
	var o setOptions
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Change the properties of a VM",
		Long: `Changes the properties whose flags are set. Some changes take effect at once, others at the next start. banger prints which.

Disks can only grow. If you change the image, the VM gets a new system disk; its work disk at /root stays.`,
		Example: `banger vm set web --memory 4G --vcpu 4
banger vm set web --disk-size 40G
banger vm set web --env DEBUG=1 --unset-env CI
banger vm set web --idle-suspend 10m`,
		Args: command.WantArgs("NAME"),
	}
	cmd.RunE = command.Interruptible(func(ctx context.Context, args []string) error {
		o.name = args[0]
		change, err := o.change(a, cmd.Flags())
		if err != nil {
			return err
		}
		return runSet(ctx, change, o, a)
	})
	addSpec(a, cmd, &o.spec)
	cmd.Flags().Lookup("name").Hidden = true
	cmd.Flags().Lookup("label").Usage = "label of the VM, `KEY=VALUE`; KEY= removes the label"
	cmd.Flags().StringArrayVar(&o.unsetEnv, "unset-env", nil, "remove this environment variable, `NAME`")
	command.AddJSON(cmd, &o.json)
	cmd.ValidArgsFunction = command.FirstArg(completeVMs(a, nil))
	return cmd
}

// change returns the change that the flags ask for. Flags that are not set change nothing.
func (o *setOptions) change(a *command.App, flags *pflag.FlagSet) (model.Change, error) {
	if flags.Changed("name") {
		return model.Change{}, fault.New(fault.Invalid, "set cannot change a VM's name").
			WithHint("Use: banger vm rename %s %s", o.name, o.spec.Create.Name)
	}
	want, err := o.spec.Resolve(a, flags)
	if err != nil {
		return model.Change{}, err
	}
	ch := model.Change{Env: want.Env, UnsetEnv: o.unsetEnv, Labels: want.Labels, WorkDiskSize: want.WorkDiskSize}
	given := func(name string, set func()) {
		if flags.Changed(name) {
			set()
		}
	}
	given("vcpu", func() { ch.VCPUs = want.VCPUs })
	given("memory", func() { ch.Memory = &want.Memory })
	given("disk-size", func() { ch.DiskSize = &want.DiskSize })
	given("net", func() { ch.Net = &want.Net })
	given("workdir", func() { ch.Workdir = &want.Workdir })
	given("user", func() { ch.User = &want.User })
	given("kernel", func() { ch.Kernel = &want.Kernel })
	given("image", func() { ch.Image = &want.Image })
	given("idle-suspend", func() { ch.IdleSuspend = &want.IdleSuspend })
	changes := false
	flags.Visit(func(f *pflag.Flag) { changes = changes || f.Name != "json" })
	if !changes {
		return ch, fault.New(fault.Invalid, "no flag is set, so there is nothing to change").
			WithHint("For example: banger vm set %s --memory 4G", o.name)
	}
	return ch, nil
}

func runSet(ctx context.Context, change model.Change, o setOptions, a *command.App) error {
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	changed, err := command.Await(ctx, a, "Changing "+o.name, "answer of VM "+o.name, func() (model.Changed, error) { return client.VMs().Change(ctx, o.name, change) })
	if err != nil {
		return explainVM(ctx, client, o.name, err)
	}
	if o.json {
		return ui.JSON(a.Out, changed)
	}
	name := ui.Clean(changed.VM.Spec.Name)
	if len(changed.Applied) == 0 && len(changed.Pending) == 0 {
		fmt.Fprintf(a.Out, "%s: nothing to change\n", name)
	}
	if len(changed.Applied) > 0 {
		fmt.Fprintf(a.Out, "%s: now: %s\n", name, render.FieldNames(changed.Applied))
	}
	if len(changed.Pending) > 0 {
		fmt.Fprintf(a.Out, "%s: at the next start: %s\n", name, render.FieldNames(changed.Pending))
		if changed.VM.State == model.Running && ui.Terminal(a.Err) != nil {
			a.Hint(fmt.Sprintf("banger vm restart %s", name))
		}
	}
	return nil
}
