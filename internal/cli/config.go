package cli

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"banger/internal/cli/command"
	"banger/internal/cli/render"
	"banger/internal/cli/ui"
)

// newConfigCmd returns the commands on the configuration.
func newConfigCmd(a *command.App) *cobra.Command {
	cmd := command.NewGroup("config", "Show the configuration",
		"banger reads config.toml, then BANGER_* environment variables, then flags. A later value overrides an earlier one.")
	cmd.AddCommand(newConfigShowCmd(a))
	return cmd
}

func newConfigShowCmd(a *command.App) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show the effective configuration and the origin of each value",
		Long: `Shows the values from the configuration file and the environment of this command.

Settings of new VMs (image to net) take effect at once. The daemon reads the other settings when it starts. To apply them to a running daemon: banger daemon restart`,
		Example: "banger config show",
		Args:    command.WantArgs(),
		RunE:    command.Interruptible(func(ctx context.Context, _ []string) error { return runConfigShow(ctx, asJSON, a) }),
	}
	command.AddJSON(cmd, &asJSON)
	return cmd
}

func runConfigShow(ctx context.Context, asJSON bool, a *command.App) error {
	cfg, file, err := a.Config()
	if err != nil {
		return err
	}
	if asJSON {
		return ui.JSON(a.Out, cfg.Rows())
	}
	columns := ui.Columns(a.Out)
	t := render.Settings(cfg.Rows(), columns)
	if err := t.Write(a.Out, columns, a.Style(a.Out)); err != nil {
		return err
	}
	if daemonIsOlder(ctx, a, file) {
		a.Note("%s was changed after the daemon started. To apply all changes: banger daemon restart", file)
	}
	return nil
}

// daemonIsOlder reports whether a daemon runs that was started before the file was last written.
func daemonIsOlder(ctx context.Context, a *command.App, path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	client, err := a.Running(ctx)
	if err != nil {
		return false
	}
	defer client.Close()
	status, err := client.Daemon().Status(ctx)
	return err == nil && status.Started.Before(info.ModTime())
}
