package cli

import (
	"github.com/spf13/cobra"

	"banger/internal/cli/ui"
	"banger/internal/config"
)

// newConfigCmd returns the commands on the configuration.
func newConfigCmd(a *app) *cobra.Command {
	cmd := newGroupCmd("config", "The configuration", "What is set comes from config.toml, then from BANGER_* variables, then from flags; later ones win.")
	cmd.AddCommand(newConfigShowCmd(a))
	return cmd
}

func newConfigShowCmd(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show the effective values and where each comes from",
		Long:  "Shows what this environment and the configuration file say. A daemon that runs already keeps what it was started with: banger daemon restart.",
		Args:  wantArgs(),
		RunE:  func(*cobra.Command, []string) error { return runConfigShow(asJSON, a) },
	}
	addJSON(cmd, &asJSON)
	return cmd
}

func runConfigShow(asJSON bool, a *app) error {
	layout, err := a.layout()
	if err != nil {
		return err
	}
	cfg, err := config.Load(layout.ConfigFile(), a.lookupEnv, nil)
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
		{Title: "WHAT IT IS", Min: 16, Drop: 1, Paint: ui.Style.Dim},
	}}
	for _, r := range cfg.Rows() {
		t.Rows = append(t.Rows, []string{r.Key, r.Value, r.Origin, r.Doc})
	}
	columns := width(a.Out)
	if columns == 0 {
		t.Columns = t.Columns[:3] // the explanations are for people
		for i := range t.Rows {
			t.Rows[i] = t.Rows[i][:3]
		}
	}
	return t.Write(a.Out, columns, a.style(a.Out))
}
