package command

import (
	"context"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Interruptible turns run into a command's RunE. The first Ctrl-C, or a similar signal, cancels
// run's context. The second one ends the process. Commands with a session handle signals
// themselves.
func Interruptible(run func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		context.AfterFunc(ctx, stop)
		return run(ctx, args)
	}
}
