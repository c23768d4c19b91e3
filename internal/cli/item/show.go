package item

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/ui"
)

// Printer prints the details of an item for a person.
type Printer[T any] func(ctx context.Context, a *command.App, client *api.Client, item T) error

// PrintPairs returns a printer, made from a function that lists an item's properties.
func PrintPairs[T any](pairs func(item T, style ui.Style, now time.Time) [][2]string) Printer[T] {
	return func(_ context.Context, a *command.App, _ *api.Client, item T) error {
		style := a.Style(a.Out)
		return ui.Pairs(a.Out, style, pairs(item, style, time.Now()))
	}
}

type showOptions struct {
	json bool
	ref  string
}

// ShowCmd returns the command that shows one item.
func (k Kind[T]) ShowCmd(a *command.App) *cobra.Command {
	var o showOptions
	cmd := &cobra.Command{
		Use:     "show " + k.Arg,
		Aliases: []string{"inspect"},
		Short:   "Show the details of " + k.One,
		Example: "banger " + k.Group + " show " + k.Example,
		Args:    command.WantArgs(k.Arg),
		RunE: command.Interruptible(func(ctx context.Context, args []string) error {
			o.ref = args[0]
			return k.runShow(ctx, o, a)
		}),
	}
	command.AddJSON(cmd, &o.json)
	cmd.ValidArgsFunction = command.FirstArg(k.Complete(a, nil))
	return cmd
}

func (k Kind[T]) runShow(ctx context.Context, o showOptions, a *command.App) error {
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	item, err := k.Get(client, ctx, o.ref)
	switch {
	case err != nil:
		return k.Explained(ctx, client, o.ref, err)
	case o.json:
		return ui.JSON(a.Out, item)
	}
	return k.Print(ctx, a, client, item)
}
