package item

import (
	"context"

	"github.com/spf13/cobra"

	"banger/internal/cli/command"
)

// DeleteCmd returns the command that deletes the items named. long says what else a person must
// know.
func (k Kind[T]) DeleteCmd(a *command.App, long string) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "delete " + k.Arg + "...",
		Aliases: []string{"rm"},
		Short:   "Delete " + k.Many,
		Long:    long,
		Example: "banger " + k.Group + " delete " + k.Example,
		Args:    command.WantArgs(k.Arg + "..."),
		RunE:    command.Interruptible(func(ctx context.Context, args []string) error { return k.runDelete(ctx, args, a) }),
	}
	cmd.ValidArgsFunction = k.Complete(a, nil)
	return cmd
}

// runDelete deletes one item after the other and prints the refs of those that it deleted.
// After an error it continues with the next item.
func (k Kind[T]) runDelete(ctx context.Context, refs []string, a *command.App) error {
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	errs := make([]error, len(refs))
	for i, ref := range refs {
		errs[i] = k.Explained(ctx, client, ref, k.Remove(client, ctx, ref))
	}
	return printOutcomes(a, refs, errs)
}
