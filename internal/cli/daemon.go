package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/logfile"
	"banger/internal/cli/render"
	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/regular"
)

// shutdownTimeout bounds how long `daemon stop` waits: running operations finish first.
const shutdownTimeout = time.Minute

// newDaemonCmd returns the commands on the daemon.
func newDaemonCmd(a *command.App) *cobra.Command {
	cmd := command.NewGroup("daemon", "Control the daemon, bangerd",
		"Commands start bangerd if it does not run. VMs continue to run when bangerd stops, and it finds them when it starts again.")
	cmd.AddCommand(newDaemonStartCmd(a), newDaemonStopCmd(a), newDaemonStatusCmd(a), newDaemonRestartCmd(a),
		newDaemonLogsCmd(a), newDaemonBundleCmd(a), newDaemonRecoverCmd(a))
	return cmd
}

func newDaemonStartCmd(a *command.App) *cobra.Command {
	return &cobra.Command{
		Use:   "start",
		Short: "Start the daemon",
		Args:  command.WantArgs(),
		RunE: command.Interruptible(func(ctx context.Context, _ []string) error {
			if client, err := a.Running(ctx); err == nil {
				client.Close()
				a.Note("bangerd is already running")
				return nil
			}
			client, err := a.Connect(ctx)
			if err != nil {
				return err
			}
			return client.Close()
		}),
	}
}

func newDaemonStopCmd(a *command.App) *cobra.Command {
	return &cobra.Command{
		Use:   "stop",
		Short: "Stop the daemon, but not the VMs",
		Long:  "Waits until running operations have finished, but for no guest that does not answer.",
		Args:  command.WantArgs(),
		RunE:  command.Interruptible(func(ctx context.Context, _ []string) error { return runDaemonStop(ctx, a) }),
	}
}

func runDaemonStop(ctx context.Context, a *command.App) error {
	client, err := a.Running(ctx)
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	if command.Absent(err) {
		found, err := terminateDaemon(ctx, a)
		if err == nil && !found {
			a.Note("bangerd is not running")
		}
		return err
	}
	if err != nil {
		return err
	}
	return client.Daemon().Shutdown(ctx)
}

// terminateDaemon ends a daemon that does not listen, if there is one.
func terminateDaemon(ctx context.Context, a *command.App) (found bool, err error) {
	layout, err := a.Layout()
	if err != nil {
		return false, err
	}
	return api.Terminate(ctx, layout)
}

func newDaemonRestartCmd(a *command.App) *cobra.Command {
	return &cobra.Command{
		Use:   "restart",
		Short: "Stop the daemon and start it again",
		Long:  "VMs continue to run. The new daemon reads the configuration again.",
		Args:  command.WantArgs(),
		RunE: command.Interruptible(func(ctx context.Context, _ []string) error {
			// A daemon that works is not stopped for one that could not start.
			if _, _, err := a.Config(); err != nil {
				return err
			}
			if err := runDaemonStop(ctx, a); err != nil {
				return err
			}
			client, err := a.Connect(ctx)
			if err != nil {
				return err
			}
			return client.Close()
		}),
	}
}

func newDaemonStatusCmd(a *command.App) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the state of the daemon",
		Long:  fmt.Sprintf("Does not start the daemon. If it does not run, the exit status is %d.", fault.Unavailable.ExitCode()),
		Args:  command.WantArgs(),
		RunE: command.Interruptible(func(ctx context.Context, _ []string) error {
			client, err := a.Running(ctx)
			if command.Absent(err) {
				client, err = awaitDaemon(ctx, a)
			}
			if err != nil {
				return err
			}
			status, err := client.Daemon().Status(ctx)
			switch {
			case err != nil:
				return err
			case asJSON:
				return ui.JSON(a.Out, status)
			}
			return ui.Pairs(a.Out, a.Style(a.Out), render.Status(status, a.Style(a.Out), time.Now()))
		}),
	}
	command.AddJSON(cmd, &asJSON)
	return cmd
}

// awaitDaemon returns a client of a daemon that does not listen yet, or makes a lost socket anew.
func awaitDaemon(ctx context.Context, a *command.App) (*api.Client, error) {
	layout, err := a.Layout()
	if err != nil {
		return nil, err
	}
	client, err := api.Await(ctx, layout)
	if command.Absent(err) {
		return nil, fault.New(fault.Unavailable, "bangerd is not running").
			WithHint("Commands start it automatically, or: banger daemon start")
	}
	return client, err
}

func newDaemonLogsCmd(a *command.App) *cobra.Command {
	var o logsOptions
	cmd := &cobra.Command{
		Use:     "logs",
		Short:   "Show the daemon's log",
		Long:    "The daemon need not run.",
		Example: "banger daemon logs --tail 20 --follow",
		Args:    command.WantArgs(),
		RunE:    command.Interruptible(func(ctx context.Context, _ []string) error { return runDaemonLogs(ctx, o, a) }),
	}
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "continue with new entries until Ctrl-C")
	cmd.Flags().IntVarP(&o.tail, "tail", "n", 0, "print only the last `number` lines")
	command.SetExample(cmd.Flags(), "tail", "20")
	return cmd
}

func runDaemonLogs(ctx context.Context, o logsOptions, a *command.App) error {
	layout, err := a.Layout()
	if err != nil {
		return err
	}
	f, err := regular.Open(layout.DaemonLog())
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.NotFound, "there is no log yet: %s", layout.DaemonLog()).
			WithHint("The daemon writes it when it starts: banger daemon start")
	}
	if err != nil {
		return fmt.Errorf("opening the daemon's log: %w", err)
	}
	defer f.Close()
	if err := logfile.SeekTail(f, o.tail); err != nil {
		return fmt.Errorf("reading the daemon's log: %w", err)
	}
	var log io.Reader = f
	if o.follow {
		log = logfile.Follow(ctx, layout.DaemonLog(), f)
	}
	return copyLog(ctx, a, log, o.follow)
}
