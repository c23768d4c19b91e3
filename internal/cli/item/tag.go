package item

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger/internal/cli/command"
	"banger/internal/cli/ui"
)

type tagOptions struct {
	ref, name string
	json      bool
}

// TagCmd returns the command that gives an item a name.
func (k Kind[T]) TagCmd(a *command.App, arg, example string) *cobra.Command {
	var o tagOptions
	cmd := &cobra.Command{
		Use:   "tag " + k.Arg + " " + arg,
		Short: "Give " + k.One + " a name",
		Long: "Gives " + k.One + " a name. It may have several. If another one has the name, the name moves, and banger says so.\n\n" +
			"VMs, snapshots and templates are not affected: they record ids.\n\nPrints the name.",
		Example: "banger " + k.Group + " tag " + example,
		Args:    command.WantArgs(k.Arg, arg),
		RunE: command.Interruptible(func(ctx context.Context, args []string) error {
			o.ref, o.name = args[0], args[1]
			return k.runTag(ctx, o, a)
		}),
	}
	command.AddJSON(cmd, &o.json)
	cmd.ValidArgsFunction = command.FirstArg(k.Complete(a, nil))
	return cmd
}

func (k Kind[T]) runTag(ctx context.Context, o tagOptions, a *command.App) error {
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	item, err := k.Tag(client, ctx, o.ref, o.name)
	switch {
	case err != nil:
		return k.Explained(ctx, client, o.ref, err)
	case o.json:
		return ui.JSON(a.Out, item)
	}
	fmt.Fprintln(a.Out, ui.Clean(o.name))
	a.Notices(k.Notices(item))
	return nil
}
