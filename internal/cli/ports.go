package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger/internal/cli/command"
	"banger/internal/cli/ui"
	"banger/internal/guest/proto"
	"banger/internal/model"
)

func newPortsCmd(a *command.App) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "ports NAME",
		Short:   "List the TCP ports on which a VM listens",
		Long:    "ADDRESS is the guest's address that the port is bound to.",
		Example: "banger vm ports web",
		Args:    command.WantArgs("NAME"),
		RunE: command.Interruptible(func(ctx context.Context, args []string) error {
			client, err := a.Connect(ctx)
			if err != nil {
				return err
			}
			ports, err := client.Guests().Ports(ctx, args[0])
			switch {
			case err != nil:
				return explainVM(ctx, client, args[0], err)
			case asJSON:
				return ui.JSON(a.Out, append([]proto.Port{}, ports...))
			}
			t := ui.Table{Columns: []ui.Column{{Title: "PORT", Right: true}, {Title: "ADDRESS"}}}
			for _, p := range ports {
				t.Rows = append(t.Rows, []string{fmt.Sprint(p.Port), p.Addr})
			}
			return a.PrintTable(t)
		}),
	}
	command.AddJSON(cmd, &asJSON)
	cmd.ValidArgsFunction = command.FirstArg(completeVMs(a, inState(model.Running)))
	return cmd
}
