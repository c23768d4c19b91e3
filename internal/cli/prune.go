package cli

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/model"
)

type pruneOptions struct {
	yes      bool
	json     bool
	question func() string
	prune    func(*api.Client, context.Context) (model.Pruned, error)
}

// ask is a question that is always the same.
func ask(question string) func() string { return func() string { return question } }

func newPruneVMsCmd(a *app) *cobra.Command {
	return newPruneCmd(a, "Delete what is left over of VMs", pruneOptions{
		question: ask("Delete stopped VMs' left-overs and broken VMs?"), prune: (*api.Client).PruneVMs,
	})
}

func newImagePruneCmd(a *app) *cobra.Command {
	return newPruneCmd(a, "Delete images that no VM uses, and left-over downloads", pruneOptions{
		question: ask("Delete all images that no VM uses?"), prune: (*api.Client).PruneImages,
	})
}

func newKernelPruneCmd(a *app) *cobra.Command {
	return newPruneCmd(a, "Delete kernels that no VM uses", pruneOptions{
		question: ask("Delete all kernels that no VM uses?"), prune: (*api.Client).PruneKernels,
	})
}

func newPruneCmd(a *app, short string, o pruneOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "prune",
		Short: short,
		Long:  short + ". On a terminal it asks first.",
		Args:  wantArgs(),
		RunE:  interruptible(func(ctx context.Context, _ []string) error { return runPrune(ctx, o, a) }),
	}
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVarP(&o.yes, "force", "f", false, "the same as --yes")
	addJSON(cmd, &o.json)
	return cmd
}

func runPrune(ctx context.Context, o pruneOptions, a *app) error {
	if !o.yes && terminal(a.In) != nil && terminal(a.Err) != nil {
		yes, err := a.confirm(ctx, o.question())
		if err != nil {
			return err
		}
		if !yes {
			return fault.New(fault.Canceled, "nothing was deleted")
		}
	}
	client, err := a.connect(ctx)
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
	a.note("%d deleted, %v freed", len(pruned.Removed), pruned.Freed)
	return nil
}

// confirm asks a question on the terminal. Anything but yes is no. The read outlives ctx, as the process does not.
func (a *app) confirm(ctx context.Context, question string) (bool, error) {
	fmt.Fprintf(a.Err, "%s [y/N] ", question)
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(a.In).ReadString('\n') // the end of input is no answer
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
