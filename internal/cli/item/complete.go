package item

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/ui"
)

// Complete completes the names of the items that pass accepts; nil accepts all. Names that are
// arguments already are not offered again.
func (k Kind[T]) Complete(a *command.App, pass func(T) bool) command.Completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return a.Ask(cmd, func(ctx context.Context, client *api.Client) []cobra.Completion {
			items, err := k.List(client, ctx)
			if err != nil {
				return nil
			}
			var found []cobra.Completion
			for _, item := range items {
				if pass != nil && !pass(item) {
					continue
				}
				for _, name := range k.Names(item) {
					if name = ui.Clean(name); !slices.Contains(args, name) {
						found = append(found, cobra.CompletionWithDesc(name, ui.Clean(k.About(item))))
					}
				}
			}
			return found
		})
	}
}
