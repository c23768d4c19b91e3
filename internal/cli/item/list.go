package item

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/cli/command"
	"banger/internal/cli/ui"
)

type listOptions struct{ json, quiet bool }

// ListCmd returns the command that lists all items.
func (k Kind[T]) ListCmd(a *command.App) *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List " + k.Many,
		Example: "banger " + k.Group + " list",
		Args:    command.WantArgs(),
		RunE:    command.Interruptible(func(ctx context.Context, _ []string) error { return k.runList(ctx, o, a) }),
	}
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "print "+k.Label+" only")
	command.AddJSON(cmd, &o.json)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

func (k Kind[T]) runList(ctx context.Context, o listOptions, a *command.App) error {
	keep := func(T) bool { return true }
	if k.Keep != nil {
		var err error
		if keep, err = k.Keep(); err != nil {
			return err
		}
	}
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	all, err := k.List(client, ctx)
	if err != nil {
		return err
	}
	items := make([]T, 0, len(all)) // not nil: an empty list is [] in JSON
	for _, item := range all {
		if keep(item) {
			items = append(items, item)
		}
	}
	switch {
	case o.json:
		return ui.JSON(a.Out, items)
	case o.quiet:
		for _, item := range items {
			fmt.Fprintln(a.Out, ui.Clean(k.Name(item)))
		}
		return nil
	case len(all) == 0 && ui.Terminal(a.Out) != nil:
		a.Note("%s", k.None)
		return nil
	}
	if err := a.PrintTable(k.Table(items, time.Now())); err != nil || k.Note == nil {
		return err
	}
	for _, item := range items {
		if note := k.Note(item); note != "" {
			a.Note("%s", note)
		}
	}
	return nil
}
