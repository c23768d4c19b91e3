package cli

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

type createOptions struct {
	spec   specFlags
	remove bool
	json   bool
}

func newCreateCmd(a *app) *cobra.Command {
	var o createOptions
	cmd := &cobra.Command{
		Use:     "create",
		Short:   "Make a VM without starting it",
		Example: "banger vm create --name dev --memory 2G --vcpu 2\nbanger vm start dev",
		Args:    wantArgs(),
	}
	cmd.RunE = interruptible(func(ctx context.Context, _ []string) error {
		create, err := o.spec.resolve(a, cmd.Flags())
		if err != nil {
			return err
		}
		if err := a.configure(&create); err != nil {
			return err
		}
		return runCreate(ctx, create, o, a)
	})
	o.spec.add(a, cmd)
	cmd.Flags().BoolVar(&o.remove, "rm", false, "delete the VM when it stops")
	addJSON(cmd, &o.json)
	return cmd
}

// addJSON gives a command the flag that all commands with an answer have.
func addJSON(cmd *cobra.Command, target *bool) {
	cmd.Flags().BoolVar(target, "json", false, "print JSON: the API's own document; errors as well")
}

func runCreate(ctx context.Context, create model.Create, o createOptions, a *app) error {
	if o.remove {
		create.Remove = model.RemoveOnStop
	}
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	var vm model.VM
	err = a.withProgress("Creating a VM", func(report step.Reporter) error {
		vm, err = client.CreateVM(ctx, create, report)
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

func newStartCmd(a *app) *cobra.Command {
	var how model.Start
	cmd := &cobra.Command{
		Use:     "start NAME...",
		Short:   "Start VMs",
		Long:    "A paused or suspended VM goes on where it was.",
		Example: "banger vm start web\nbanger vm start --cold web",
		Args:    wantArgs("NAME..."),
		RunE:    interruptible(func(ctx context.Context, args []string) error { return runStart(ctx, args, how, a) }),
	}
	addCold(cmd, &how.Cold)
	cmd.ValidArgsFunction = a.completeVMs(func(s model.State) bool { return !s.Live() || s == model.Paused })
	return cmd
}

func runStart(ctx context.Context, names []string, how model.Start, a *app) error {
	return a.eachVMNoting(ctx, "Starting", names, func(ctx context.Context, client *api.Client, name string, report step.Reporter) error {
		_, err := client.StartVM(ctx, name, how, report)
		return err
	})
}

// eachVMNoting is eachVM that says at the end for which VMs there was nothing to do.
func (a *app) eachVMNoting(ctx context.Context, doing string, names []string,
	do func(ctx context.Context, client *api.Client, name string, report step.Reporter) error) error {
	var mu sync.Mutex
	var notes []string
	err := a.eachVM(ctx, doing, names, func(ctx context.Context, client *api.Client, name string, report step.Reporter) error {
		return do(ctx, client, name, func(e step.Event) {
			if e.Phase == step.Skipped {
				mu.Lock()
				notes = append(notes, name+" is "+e.Detail)
				mu.Unlock()
			}
			report.Report(e)
		})
	})
	for _, note := range notes {
		a.note("%s", note)
	}
	return err
}

type stopOptions struct {
	timeout time.Duration
	set     bool
}

func (o *stopOptions) add(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&o.timeout, "timeout", 0, "`time` that the guest has to power off; then it is ended")
	setExample(cmd.Flags(), "timeout", "30s")
}

func (o stopOptions) request() (api.VMStop, error) {
	switch {
	case !o.set:
		return api.VMStop{}, nil
	case o.timeout < 0:
		return api.VMStop{}, fault.New(fault.Invalid, "--timeout: %v is negative", o.timeout).WithHint("For example: --timeout 30s")
	}
	return api.VMStop{Timeout: &o.timeout}, nil
}

func newStopCmd(a *app) *cobra.Command {
	var o stopOptions
	cmd := &cobra.Command{
		Use:   "stop NAME...",
		Short: "Stop VMs: ask the guest to power off, wait, then end it",
		Args:  wantArgs("NAME..."),
	}
	cmd.RunE = interruptible(func(ctx context.Context, args []string) error {
		o.set = cmd.Flags().Changed("timeout")
		return runStop(ctx, args, o, a)
	})
	o.add(cmd)
	cmd.ValidArgsFunction = a.completeVMs(endable)
	return cmd
}

func runStop(ctx context.Context, names []string, o stopOptions, a *app) error {
	req, err := o.request()
	if err != nil {
		return err
	}
	return a.eachVMNoting(ctx, "Stopping", names, func(ctx context.Context, client *api.Client, name string, report step.Reporter) error {
		_, err := client.StopVM(ctx, name, req, report)
		return err
	})
}

func newRestartCmd(a *app) *cobra.Command {
	var o stopOptions
	cmd := &cobra.Command{
		Use:   "restart NAME...",
		Short: "Stop VMs and start them again",
		Args:  wantArgs("NAME..."),
	}
	cmd.RunE = interruptible(func(ctx context.Context, args []string) error {
		o.set = cmd.Flags().Changed("timeout")
		return runRestart(ctx, args, o, a)
	})
	o.add(cmd)
	cmd.ValidArgsFunction = a.completeVMs(nil)
	return cmd
}

func runRestart(ctx context.Context, names []string, o stopOptions, a *app) error {
	req, err := o.request()
	if err != nil {
		return err
	}
	return a.eachVM(ctx, "Restarting", names, func(ctx context.Context, client *api.Client, name string, report step.Reporter) error {
		_, err := client.RestartVM(ctx, name, req, report)
		return err
	})
}

func newKillCmd(a *app) *cobra.Command {
	var signal string
	cmd := &cobra.Command{
		Use:     "kill NAME...",
		Short:   "Send a signal to the program that runs a VM",
		Long:    "The guest gets no chance to save what it has in memory. To reach a process in the guest, use `banger exec NAME -- kill`.",
		Example: "banger vm kill web\nbanger vm kill --signal TERM web",
		Args:    wantArgs("NAME..."),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			return a.eachVM(ctx, "Ending", args, func(ctx context.Context, client *api.Client, name string, _ step.Reporter) error {
				_, err := client.KillVM(ctx, name, api.VMKill{Signal: signal})
				return err
			})
		}),
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", "", "`signal` to send, by name or number; KILL when not given")
	setExample(cmd.Flags(), "signal", "TERM")
	complete(cmd, "signal", completeWords("KILL", "TERM", "INT", "QUIT", "STOP", "CONT"))
	cmd.ValidArgsFunction = a.completeVMs(endable)
	return cmd
}

// newDeleteCmd returns the command under one of its names: "delete" among the vm commands, "rm" at the top.
func newDeleteCmd(a *app, name string) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   name + " NAME...",
		Short: "Delete VMs with all that is theirs",
		Args:  wantArgs("NAME..."),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			return a.eachVM(ctx, "Deleting", args, func(ctx context.Context, client *api.Client, name string, report step.Reporter) error {
				return client.DeleteVM(ctx, name, api.VMDelete{Force: force}, report)
			})
		}),
	}
	cmd.Example = "banger rm web\nbanger rm -f web db"
	if name == "delete" {
		cmd.Aliases = []string{"rm"}
		cmd.Example = "banger vm delete web\nbanger vm delete -f web db"
	}
	cmd.SuggestFor = []string{"remove", "destroy"}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also when they are running")
	cmd.ValidArgsFunction = a.completeVMs(nil)
	return cmd
}

func newRenameCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rename NAME NEW-NAME",
		Short: "Give a VM another name",
		Args:  wantArgs("NAME", "NEW-NAME"),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			if err := model.CheckName(args[1]); err != nil {
				return fault.New(fault.Invalid, "%w", err).WithHint("For example: banger vm rename %s web-1", args[0])
			}
			client, err := a.connect(ctx)
			if err != nil {
				return err
			}
			vm, err := client.RenameVM(ctx, args[0], args[1])
			if err != nil {
				return a.explainVM(ctx, client, args[0], err)
			}
			fmt.Fprintln(a.Out, ui.Clean(vm.Spec.Name))
			return nil
		}),
	}
	cmd.ValidArgsFunction = firstArg(a.completeVMs(nil))
	return cmd
}
