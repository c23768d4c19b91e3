package cli

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/ui"
	"banger/internal/fault"
)

type logsOptions struct {
	follow bool
	tail   int
	vmm    bool
	name   string
}

func newLogsCmd(a *command.App) *cobra.Command {
	var o logsOptions
	cmd := &cobra.Command{
		Use:     "logs NAME",
		Short:   "Show the console output of a VM",
		Long:    "On a terminal, banger prints text and colours only. It removes all other control sequences, because the guest could misuse them. It shows text that the guest conceals, and removes invisible characters. If the output is no terminal, the bytes pass unchanged.",
		Example: "banger logs -f web\nbanger logs --tail 20 --vmm web",
		Args:    command.WantArgs("NAME"),
		RunE: command.Interruptible(func(ctx context.Context, args []string) error {
			o.name = args[0]
			return runLogs(ctx, o, a)
		}),
	}
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "continue with new output until the VM stops")
	cmd.Flags().IntVarP(&o.tail, "tail", "n", 0, "print only the last `number` lines")
	cmd.Flags().BoolVar(&o.vmm, "vmm", false, "show the output of the program that runs the VM instead")
	command.SetExample(cmd.Flags(), "tail", "20")
	cmd.ValidArgsFunction = command.FirstArg(completeVMs(a, nil))
	return cmd
}

func runLogs(ctx context.Context, o logsOptions, a *command.App) error {
	if o.tail < 0 {
		return fault.New(fault.Invalid, "--tail: %d is negative", o.tail).WithHint("For example: --tail 20")
	}
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	opts := api.VMLogs{Source: api.LogConsole, Follow: o.follow, Tail: o.tail}
	if o.vmm {
		opts.Source = api.LogVMM
	}
	log, err := client.VMs().Logs(ctx, o.name, opts)
	if err != nil {
		return explainVM(ctx, client, o.name, err)
	}
	defer log.Close()
	return copyLog(ctx, a, log, o.follow)
}

// copyLog copies a log to standard output. Ctrl-C is the regular end of a log that is followed.
func copyLog(ctx context.Context, a *command.App, log io.Reader, follow bool) error {
	out := a.Out
	if ui.Terminal(a.Out) != nil {
		filter := ui.NewFilter(a.Out)
		defer filter.Close()
		out = filter
	}
	_, err := io.Copy(out, log)
	switch {
	case ctx.Err() != nil && follow:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fault.New(fault.Unavailable, "reading the log: %w", err).WithHint("See `banger daemon logs`.")
	}
	return err
}
