package item

import (
	"context"
	"fmt"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/ui"
	"banger/internal/step"
)

// Maker asks the daemon to make one item.
type Maker[T any] func(*api.Client, step.Reporter) (T, error)

// Make makes one item under a progress view that title heads. It prints the item's name, and on
// a terminal its size and the time that it took.
func (k Kind[T]) Make(ctx context.Context, a *command.App, title string, asJSON bool, do Maker[T]) error {
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
	fmt.Fprintln(a.Out, ui.Clean(k.Name(item)))
	a.NoteMade(k.Size(item), p.Elapsed())
	a.Notices(k.Notices(item))
	return nil
}
