package item

import (
	"context"
	"time"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/fault"
)

// ExplainTimeout bounds the search for a hint: a hint is not worth a long wait.
const ExplainTimeout = time.Second

// Explained adds to an error about ref what the list of all items can explain. nil stays nil.
func (k Kind[T]) Explained(ctx context.Context, client *api.Client, ref string, err error) error {
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, ExplainTimeout)
	defer cancel()
	if k.Explain != nil {
		return k.Explain(ctx, client, ref, err)
	}
	return k.nearestName(ctx, client, ref, err)
}

// nearestName adds the nearest name to the error of an item that was not found.
func (k Kind[T]) nearestName(ctx context.Context, client *api.Client, ref string, err error) error {
	if fault.KindOf(err) != fault.NotFound {
		return err
	}
	items, listErr := k.List(client, ctx)
	if listErr != nil {
		return err
	}
	var names []string
	for _, item := range items {
		names = append(names, k.Names(item)...)
	}
	near := ui.Closest(ref, names)
	switch {
	case len(names) == 0:
		return fault.New(fault.NotFound, "%w", err).WithHint("%s", k.None)
	case near == "" || near == ref: // or something else is missing
		return err
	}
	return fault.New(fault.NotFound, "%w", err).WithHint("Did you mean %s?", near)
}
