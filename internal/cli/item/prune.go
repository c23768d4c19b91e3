package item

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/model"
)

// Prune describes a prune command and holds its flags.
type Prune struct {
	Short, Long, Example string

	Question func() string // that a person answers before anything is deleted
	Delete   func(*api.Client, context.Context) (model.Pruned, error)

	yes, json bool
}

// Cmd returns the command.
func (o Prune) Cmd(a *command.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "prune",
		Short:   o.Short,
		Long:    o.Long + " On a terminal, banger asks first. Without a terminal, --yes is necessary.\n\nPrints the names of what was deleted.",
		Example: o.Example,
		Args:    command.WantArgs(),
		RunE:    command.Interruptible(func(ctx context.Context, _ []string) error { return o.run(ctx, a) }),
	}
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVarP(&o.yes, "force", "f", false, "the same as --yes")
	command.AddJSON(cmd, &o.json)
	return cmd
}

func (o Prune) run(ctx context.Context, a *command.App) error {
	if !o.yes {
		if ui.Terminal(a.In) == nil || ui.Terminal(a.Err) == nil {
			return fault.New(fault.Invalid, "nothing was deleted: there is no terminal to ask on").
				WithHint("To delete without a question, add --yes.")
		}
		yes, err := confirm(ctx, a, o.Question())
		if err != nil {
			return err
		}
		if !yes {
			return fault.New(fault.Canceled, "nothing was deleted")
		}
	}
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	pruned, err := o.Delete(client, ctx)
	switch {
	case err != nil:
		return err
	case o.json:
		return ui.JSON(a.Out, pruned)
	}
	for _, name := range pruned.Removed {
		fmt.Fprintln(a.Out, ui.Clean(name))
	}
	a.Note("%d deleted, %v freed", len(pruned.Removed), pruned.Freed)
	return nil
}

// confirm asks a question on the terminal. Any answer but yes is no. Its goroutine may outlive ctx,
// because a read cannot be interrupted; the process ends soon.
func confirm(ctx context.Context, a *command.App, question string) (bool, error) {
	fmt.Fprintf(a.Err, "%s [y/N] ", question)
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(a.In).ReadString('\n') // at the end of input: no answer
		answer <- line
	}()
	select {
	case line := <-answer:
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes":
			return true, nil
		}
		return false, nil
	case <-ctx.Done():
		fmt.Fprintln(a.Err)
		return false, context.Cause(ctx)
	}
}
