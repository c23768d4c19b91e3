package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/item"
	"banger/internal/cli/ui"
	"banger/internal/cli/vmflag"
	"banger/internal/fault"
	"banger/internal/model"
)

func newStartCmd(a *command.App) *cobra.Command {
	var how model.Start
	cmd := newEachVMCmd(a, eachVMCmd{
		use:     "start",
		short:   "Start VMs",
		long:    "Starting a paused or suspended VM resumes it.",
		example: "banger start web\nbanger start --cold web db",
		offers:  func(s model.State) bool { return !s.Live() || s == model.Paused },
		run:     func(ctx context.Context, names []string) error { return runStart(ctx, names, how, a) },
	})
	vmflag.AddCold(cmd, &how.Cold)
	return cmd
}

func runStart(ctx context.Context, names []string, how model.Start, a *command.App) error {
	return vmKind().EachNoting(ctx, a, "Starting", names, func(ctx context.Context, t item.Task) error {
		_, err := t.Client.VMs().Start(ctx, t.Name, how, t.Report)
		return err
	})
}

// stopOptions are the options of commands that stop VMs. The timeout counts only if it is set.
type stopOptions struct {
	timeout time.Duration
	set     bool
}

// addTo adds the flags to a command whose run function reads o.
func (o *stopOptions) addTo(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&o.timeout, "timeout", 0, "`time` that a guest has to power off before its VM is ended")
	command.SetExample(cmd.Flags(), "timeout", "30s")
	cmd.PreRun = func(cmd *cobra.Command, _ []string) { o.set = cmd.Flags().Changed("timeout") }
}

func (o stopOptions) request() (api.VMStop, error) {
	switch {
	case !o.set:
		return api.VMStop{}, nil
	case o.timeout < 0:
		return api.VMStop{}, fault.New(fault.Invalid, "--timeout: %v is negative", o.timeout).
			WithHint("For example: --timeout 30s")
	}
	return api.VMStop{Timeout: &o.timeout}, nil
}

func newStopCmd(a *command.App) *cobra.Command {
	var o stopOptions
	cmd := newEachVMCmd(a, eachVMCmd{
		use:   "stop",
		short: "Stop VMs",
		long: fmt.Sprintf(`Asks each guest to power off. Programs that do not end in time are killed. They may lose data, and a warning
says so. banger ends a VM whose guest does not power off in time, for instance because the host's disk is full. The guest may then
lose its last writes, and the exit status is %d, although the VM is stopped. With --timeout 0, no guest is asked.

The time is the setting stop_timeout, and longer on a slow host. --timeout is exact. Programs have this time without its last 5
seconds. If the time is less than 10 seconds, they have half of it. A paused or suspended VM is resumed first, so that its guest can power off.`, fault.Unavailable.ExitCode()),
		example: "banger stop web\nbanger stop --timeout 30s web db",
		offers:  endable,
		run:     func(ctx context.Context, names []string) error { return runStop(ctx, names, o, a) },
	})
	o.addTo(cmd)
	return cmd
}

func runStop(ctx context.Context, names []string, o stopOptions, a *command.App) error {
	req, err := o.request()
	if err != nil {
		return err
	}
	return vmKind().EachNoting(ctx, a, "Stopping", names, func(ctx context.Context, t item.Task) error {
		_, err := t.Client.VMs().Stop(ctx, t.Name, req, t.Report)
		return err
	})
}

func newRestartCmd(a *command.App) *cobra.Command {
	var o stopOptions
	cmd := newEachVMCmd(a, eachVMCmd{
		use:     "restart",
		short:   "Stop VMs and start them again",
		long:    "Asks each guest to power off, as `banger stop` does, with the same exit status. Changes that wait for the next start take effect.",
		example: "banger vm restart web",
		run:     func(ctx context.Context, names []string) error { return runRestart(ctx, names, o, a) },
	})
	o.addTo(cmd)
	return cmd
}

func runRestart(ctx context.Context, names []string, o stopOptions, a *command.App) error {
	req, err := o.request()
	if err != nil {
		return err
	}
	return vmKind().EachNoting(ctx, a, "Restarting", names, func(ctx context.Context, t item.Task) error {
		_, err := t.Client.VMs().Restart(ctx, t.Name, req, t.Report)
		return err
	})
}

func newKillCmd(a *command.App) *cobra.Command {
	var req api.VMKill
	cmd := newEachVMCmd(a, eachVMCmd{
		use:   "kill",
		short: "Send a signal to the program that runs a VM",
		long: `KILL ends a VM at once: its guest cannot save what it has in memory. Killing a suspended VM discards its saved memory.

To send a signal to a process in the guest, use ` + "`banger exec NAME -- kill PID`.",
		example: "banger vm kill web\nbanger vm kill --signal TERM web",
		offers:  endable,
		run:     func(ctx context.Context, names []string) error { return runKill(ctx, names, req, a) },
	})
	cmd.Flags().StringVarP(&req.Signal, "signal", "s", "", "`signal` to send, by name or number; KILL if unset")
	command.SetExample(cmd.Flags(), "signal", "TERM")
	command.CompleteFlag(cmd, "signal", command.Words("KILL", "TERM", "INT", "QUIT", "STOP", "CONT"))
	return cmd
}

func runKill(ctx context.Context, names []string, req api.VMKill, a *command.App) error {
	return vmKind().Each(ctx, a, "Ending", names, func(ctx context.Context, t item.Task) error {
		_, err := t.Client.VMs().Kill(ctx, t.Name, req)
		return err
	})
}

// newDeleteCmd returns the command under one of its names: "delete" among the vm commands, "rm" at
// the top.
func newDeleteCmd(a *command.App, name string) *cobra.Command {
	var req api.VMDelete
	c := eachVMCmd{
		use:     name,
		short:   "Delete VMs",
		long:    "Deletes all that belongs to each VM: its record, disks, saved memory and logs. Its snapshots and its forks stay.",
		example: "banger rm web\nbanger rm -f web db",
		run:     func(ctx context.Context, names []string) error { return runDelete(ctx, names, req, a) },
	}
	if name == "delete" {
		c.example = "banger vm delete web\nbanger vm delete -f web db"
	}
	cmd := newEachVMCmd(a, c)
	if name == "delete" {
		cmd.Aliases = []string{"rm"}
	}
	cmd.SuggestFor = []string{"remove", "destroy"}
	cmd.Flags().BoolVarP(&req.Force, "force", "f", false, "also delete VMs that are running, paused or suspended")
	return cmd
}

func runDelete(ctx context.Context, names []string, req api.VMDelete, a *command.App) error {
	return vmKind().Each(ctx, a, "Deleting", names, func(ctx context.Context, t item.Task) error {
		return t.Client.VMs().Delete(ctx, t.Name, req, t.Report)
	})
}

func newRenameCmd(a *command.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "rename NAME NEW-NAME",
		Short:   "Rename a VM",
		Long:    "A running guest gets the new name as its host name at its next start.",
		Example: "banger vm rename web web-1",
		Args:    command.WantArgs("NAME", "NEW-NAME"),
		RunE:    command.Interruptible(func(ctx context.Context, args []string) error { return runRename(ctx, args[0], args[1], a) }),
	}
	cmd.ValidArgsFunction = command.FirstArg(completeVMs(a, nil))
	return cmd
}

func runRename(ctx context.Context, name, newName string, a *command.App) error {
	if err := model.CheckName(newName); err != nil {
		return fault.New(fault.Invalid, "%w", err).WithHint("For example: banger vm rename %s web-1", name)
	}
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	vm, err := command.Await(ctx, a, "Renaming "+name, "an operation on VM "+name+" that is under way", func() (model.VM, error) { return client.VMs().Rename(ctx, name, newName) })
	if err != nil {
		return explainVM(ctx, client, name, err)
	}
	fmt.Fprintln(a.Out, ui.Clean(vm.Spec.Name))
	return nil
}
