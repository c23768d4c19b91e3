package cli

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// kind describes one kind of item that the daemon keeps, such as images. The commands that most
// kinds have (list, show, delete) are made from it in this file, and so is the completion of names.
type kind[T any] struct {
	group     string // the command that holds the kind's commands: "image"
	one, many string // with the article: "an image", "images"
	arg       string // the argument that names an item: "REF"
	example   string // of a name
	label     string // what `list --quiet` prints: "names"
	none      string // the note when there are no items

	list   func(*api.Client, context.Context) ([]T, error)
	get    func(*api.Client, context.Context, string) (T, error)
	remove func(*api.Client, context.Context, string) error

	name  func(T) string   // as commands print it
	names func(T) []string // all that completion offers
	about func(T) string   // the explanation beside a name in completion
	size  func(T) model.Bytes

	keep  func() (func(T) bool, error) // reads the filter flags of list; nil: list all
	table func(items []T, now time.Time) ui.Table
	print printer[T]
	// explain adds a hint to an error about ref; nil: nearestName.
	explain func(ctx context.Context, client *api.Client, ref string, err error) error
}

// printer prints the details of an item for a person.
type printer[T any] func(ctx context.Context, a *command.App, client *api.Client, item T) error

// printPairs returns a printer, made from a function that lists an item's properties.
func printPairs[T any](pairs func(item T, style ui.Style, now time.Time) [][2]string) printer[T] {
	return func(_ context.Context, a *command.App, _ *api.Client, item T) error {
		style := a.Style(a.Out)
		return ui.Pairs(a.Out, style, pairs(item, style, time.Now()))
	}
}

type listOptions struct{ json, quiet bool }

// listCmd returns the command that lists all items.
func (k kind[T]) listCmd(a *command.App) *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List " + k.many,
		Example: "banger " + k.group + " list",
		Args:    command.WantArgs(),
		RunE:    command.Interruptible(func(ctx context.Context, _ []string) error { return k.runList(ctx, o, a) }),
	}
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "print "+k.label+" only")
	command.AddJSON(cmd, &o.json)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

func (k kind[T]) runList(ctx context.Context, o listOptions, a *command.App) error {
	keep := func(T) bool { return true }
	if k.keep != nil {
		var err error
		if keep, err = k.keep(); err != nil {
			return err
		}
	}
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	all, err := k.list(client, ctx)
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
			fmt.Fprintln(a.Out, ui.Clean(k.name(item)))
		}
		return nil
	case len(all) == 0 && ui.Terminal(a.Out) != nil:
		a.Note("%s", k.none)
		return nil
	}
	return k.table(items, time.Now()).Write(a.Out, ui.Columns(a.Out), a.Style(a.Out))
}

type showOptions struct {
	json bool
	ref  string
}

// showCmd returns the command that shows one item.
func (k kind[T]) showCmd(a *command.App) *cobra.Command {
	var o showOptions
	cmd := &cobra.Command{
		Use:     "show " + k.arg,
		Aliases: []string{"inspect"},
		Short:   "Show the details of " + k.one,
		Example: "banger " + k.group + " show " + k.example,
		Args:    command.WantArgs(k.arg),
		RunE: command.Interruptible(func(ctx context.Context, args []string) error {
			o.ref = args[0]
			return k.runShow(ctx, o, a)
		}),
	}
	command.AddJSON(cmd, &o.json)
	cmd.ValidArgsFunction = command.FirstArg(k.complete(a, nil))
	return cmd
}

func (k kind[T]) runShow(ctx context.Context, o showOptions, a *command.App) error {
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	item, err := k.get(client, ctx, o.ref)
	switch {
	case err != nil:
		return k.explained(ctx, client, o.ref, err)
	case o.json:
		return ui.JSON(a.Out, item)
	}
	return k.print(ctx, a, client, item)
}

// deleteCmd returns the command that deletes the items named. long says what else a person must
// know.
func (k kind[T]) deleteCmd(a *command.App, long string) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "delete " + k.arg + "...",
		Aliases: []string{"rm"},
		Short:   "Delete " + k.many,
		Long:    long,
		Example: "banger " + k.group + " delete " + k.example,
		Args:    command.WantArgs(k.arg + "..."),
		RunE:    command.Interruptible(func(ctx context.Context, args []string) error { return k.runDelete(ctx, args, a) }),
	}
	cmd.ValidArgsFunction = k.complete(a, nil)
	return cmd
}

// runDelete deletes one item after the other and prints the refs of those that it deleted.
// After an error it continues with the next item.
func (k kind[T]) runDelete(ctx context.Context, refs []string, a *command.App) error {
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	errs := make([]error, len(refs))
	for i, ref := range refs {
		errs[i] = k.explained(ctx, client, ref, k.remove(client, ctx, ref))
	}
	return printOutcomes(a, refs, errs)
}

// complete completes the names of the items that pass accepts; nil accepts all. Names that are
// arguments already are not offered again.
func (k kind[T]) complete(a *command.App, pass func(T) bool) command.Completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return a.Ask(cmd, func(ctx context.Context, client *api.Client) []cobra.Completion {
			items, err := k.list(client, ctx)
			if err != nil {
				return nil
			}
			var found []cobra.Completion
			for _, item := range items {
				if pass != nil && !pass(item) {
					continue
				}
				for _, name := range k.names(item) {
					if name = ui.Clean(name); !slices.Contains(args, name) {
						found = append(found, cobra.CompletionWithDesc(name, ui.Clean(k.about(item))))
					}
				}
			}
			return found
		})
	}
}

// explainTimeout bounds the search for a hint: a hint is not worth a long wait.
const explainTimeout = time.Second

// explained adds to an error about ref what the list of all items can explain.
func (k kind[T]) explained(ctx context.Context, client *api.Client, ref string, err error) error {
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	if k.explain != nil {
		return k.explain(ctx, client, ref, err)
	}
	return k.nearestName(ctx, client, ref, err)
}

// nearestName adds the nearest name to the error of an item that was not found.
func (k kind[T]) nearestName(ctx context.Context, client *api.Client, ref string, err error) error {
	if fault.KindOf(err) != fault.NotFound {
		return err
	}
	items, listErr := k.list(client, ctx)
	if listErr != nil {
		return err
	}
	var names []string
	for _, item := range items {
		names = append(names, k.names(item)...)
	}
	near := ui.Closest(ref, names)
	switch {
	case len(names) == 0:
		return fault.New(fault.NotFound, "%w", err).WithHint("%s", k.none)
	case near == "" || near == ref: // or something else is missing
		return err
	}
	return fault.New(fault.NotFound, "%w", err).WithHint("Did you mean %s?", near)
}

// maker asks the daemon to make one item.
type maker[T any] func(*api.Client, step.Reporter) (T, error)

// runMake makes one item under a progress view that title heads. It prints the item's name, and on
// a terminal its size and the time that it took.
func (k kind[T]) runMake(ctx context.Context, a *command.App, title string, asJSON bool, do maker[T]) error {
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	p := a.Progress(title)
	defer p.Close()
	item, err := do(client, p.Report)
	p.Close()
	switch {
	case err != nil:
		return err
	case asJSON:
		return ui.JSON(a.Out, item)
	}
	fmt.Fprintln(a.Out, ui.Clean(k.name(item)))
	a.NoteMade(k.size(item), p.Elapsed())
	return nil
}
