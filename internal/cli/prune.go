package cli

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

// pruneOptions describe a prune command and hold its flags.
type pruneOptions struct {
	short, long, example string

	question func() string // that a person answers before anything is deleted
	prune    func(*api.Client, context.Context) (model.Pruned, error)

	yes, json bool
}

func newPruneVMsCmd(a *command.App) *cobra.Command {
	return newPruneCmd(a, pruneOptions{
		short:    "Delete the VMs that are stopped or have failed",
		long:     "Deletes all VMs in the states stopped and error, with their disks.",
		example:  "banger vm prune",
		question: func() string { return "Delete all VMs that are stopped or have failed?" },
		prune:    func(c *api.Client, ctx context.Context) (model.Pruned, error) { return c.VMs().Prune(ctx) },
	})
}

func newImagePruneCmd(a *command.App) *cobra.Command {
	return newPruneCmd(a, pruneOptions{
		short:    "Delete images that nothing uses",
		long:     "Deletes all images that no VM and no snapshot uses, and the layers that are left from earlier pulls.",
		example:  "banger image prune",
		question: func() string { return "Delete all images that nothing uses?" },
		prune:    func(c *api.Client, ctx context.Context) (model.Pruned, error) { return c.Images().Prune(ctx) },
	})
}

func newKernelPruneCmd(a *command.App) *cobra.Command {
	return newPruneCmd(a, pruneOptions{
		short:    "Delete kernels that nothing uses",
		long:     "Deletes all kernels that no VM and no snapshot uses.",
		example:  "banger kernel prune",
		question: func() string { return "Delete all kernels that nothing uses?" },
		prune:    func(c *api.Client, ctx context.Context) (model.Pruned, error) { return c.Kernels().Prune(ctx) },
	})
}

func newPruneCmd(a *command.App, o pruneOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "prune",
		Short:   o.short,
		Long:    o.long + " On a terminal, banger asks first.\n\nPrints the names of what was deleted.",
		Example: o.example,
		Args:    command.WantArgs(),
		RunE:    command.Interruptible(func(ctx context.Context, _ []string) error { return runPrune(ctx, o, a) }),
	}
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVarP(&o.yes, "force", "f", false, "the same as --yes")
	command.AddJSON(cmd, &o.json)
	return cmd
}

func runPrune(ctx context.Context, o pruneOptions, a *command.App) error {
	if !o.yes && ui.Terminal(a.In) != nil && ui.Terminal(a.Err) != nil {
		yes, err := confirm(ctx, a, o.question())
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
	pruned, err := o.prune(client, ctx)
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
