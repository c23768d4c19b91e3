package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/ui"
)

// listing is a `list` command: what it asks for, and how a person sees it.
type listing[T any] struct {
	short, long string
	quiet       string // what --quiet prints: "names"
	none        string // said on a terminal when there are none
	ask         func(*api.Client, context.Context) ([]T, error)
	name        func(T) string
	table       func(all []T, now time.Time) ui.Table
}

func newListingCmd[T any](a *app, l listing[T]) *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   l.short,
		Long:    l.long,
		Args:    wantArgs(),
		RunE:    interruptible(func(ctx context.Context, _ []string) error { return l.run(ctx, o, a) }),
	}
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "print "+l.quiet+" only")
	addJSON(cmd, &o.json)
	return cmd
}

func (l listing[T]) run(ctx context.Context, o listOptions, a *app) error {
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	all, err := l.ask(client, ctx)
	switch {
	case err != nil:
		return err
	case o.json:
		return ui.JSON(a.Out, append([]T{}, all...)) // never null
	case o.quiet:
		for _, one := range all {
			fmt.Fprintln(a.Out, ui.Clean(l.name(one)))
		}
		return nil
	case len(all) == 0 && terminal(a.Out) != nil:
		a.note("%s", l.none)
		return nil
	}
	return l.table(all, time.Now()).Write(a.Out, width(a.Out), a.style(a.Out))
}
