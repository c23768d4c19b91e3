package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	"banger/internal/cli/command"
	"banger/internal/cli/ui"
	"banger/internal/cli/vmflag"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

type forkOptions struct {
	vmflag.Children
	vm string
}

func newForkCmd(a *command.App) *cobra.Command {
	var o forkOptions
	cmd := &cobra.Command{
		Use:   "fork NAME",
		Short: "Make copies of a VM that continue from its present state",
		Long: `Each new VM starts with the memory, processes and disks that the VM has at this moment. It gets its own name, addresses and keys.

The VM must be running, paused or suspended. A running VM continues after a short pause. On a terminal and with --json, banger prints the length of the pause.

Prints the names of the new VMs. If one VM cannot be made, banger still makes the others.`,
		Example: `banger fork web
banger fork --name trial web
banger fork --count 4 --name trial --rm web    # trial-1 to trial-4`,
		Args: command.WantArgs("NAME"),
	}
	cmd.RunE = command.Interruptible(func(ctx context.Context, args []string) error {
		o.vm = args[0]
		req, err := o.Resolve(cmd.Flags())
		if err != nil {
			return err
		}
		return runFork(ctx, req, o, a)
	})
	o.Add(cmd)
	cmd.SuggestFor = []string{"clone", "copy"}
	cmd.ValidArgsFunction = command.FirstArg(completeVMs(a, func(s model.State) bool {
		return s == model.Running || s == model.Paused || s == model.Suspended
	}))
	return cmd
}

func runFork(ctx context.Context, req model.Fork, o forkOptions, a *command.App) error {
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	var forked model.Forked
	err = a.WithProgress("Forking "+o.vm, func(report step.Reporter) error {
		forked, err = client.VMs().Fork(ctx, o.vm, req, childrenCounted(report, req.Count))
		return err
	})
	if err != nil {
		return explainVM(ctx, client, o.vm, err)
	}
	err = printForked(a, forked, o.JSON)
	notePause(a, o.vm, forked.Pause)
	return err
}

// childrenCounted turns the reports of single children into one report of how many are made.
func childrenCounted(report step.Reporter, count int) step.Reporter {
	var ended atomic.Int64
	return func(e step.Event) {
		if e.Step != "child" {
			report.Report(e)
			return
		}
		n := ended.Add(1)
		phase := step.Progress
		if int(n) == count {
			phase = step.Done
		}
		report.Report(step.Event{Step: "children", Phase: phase, Done: n, Total: int64(count), Unit: "VMs", Time: e.Time})
	}
}

// printForked prints the names of the VMs that were made, and returns an error for each other VM.
func printForked(a *command.App, forked model.Forked, asJSON bool) error {
	if asJSON {
		if err := ui.JSON(a.Out, forked); err != nil {
			return err
		}
	}
	var failed command.Several
	var stopped []string
	for _, child := range forked.Children {
		if child.VM == nil {
			failed = append(failed, childError(child))
			continue
		}
		name := ui.Clean(child.VM.Spec.Name)
		if child.VM.State == model.Stopped {
			stopped = append(stopped, name)
		}
		if !asJSON {
			fmt.Fprintln(a.Out, name)
		}
	}
	a.Notices(forked.Notices)
	if len(stopped) > 0 && ui.Terminal(a.Err) != nil {
		a.Note("Not started yet. Start: banger vm start %s", strings.Join(stopped, " "))
	}
	if len(failed) == 0 {
		return nil
	}
	return failed
}

func childError(child model.Child) error {
	message := child.Error
	if child.Name != "" {
		message = child.Name + ": " + message
	}
	return fault.New(cmp.Or(fault.Kind(child.Kind), fault.Internal), "%s", message).WithHint("%s", child.Hint)
}
