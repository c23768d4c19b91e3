package cli

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"banger/internal/cli/command"
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
	paintOrigin := func(s ui.Style, origin string) string {
		if origin == "default" {
			return s.Dim(origin)
		}
		return s.Cyan(origin)
	}
	t := ui.Table{Columns: []ui.Column{
		{Title: "KEY", Paint: ui.Style.Bold}, {Title: "VALUE", Min: 10}, {Title: "FROM", Min: 10, Paint: paintOrigin},
		{Title: "MEANING", Min: 16, Drop: 1, Paint: ui.Style.Dim},
	}}
	for _, r := range cfg.Rows() {
		t.Rows = append(t.Rows, []string{r.Key, r.Value, r.Origin, r.Doc})
	}
	columns := ui.Columns(a.Out)
	if columns == 0 {
		t.Columns = t.Columns[:3] // the meanings are for people only
		for i := range t.Rows {
			t.Rows[i] = t.Rows[i][:3]
		}
	}
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
