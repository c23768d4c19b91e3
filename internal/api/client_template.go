package api

import (
	"context"

	"banger/internal/model"
	"banger/internal/step"
)

// Templates has the operations on templates. A ref is the beginning of a template's key, or the
// name of an image, which stands for the image's template.
type Templates struct{ resource }

// List returns all templates, the most recently used first.
func (t Templates) List(ctx context.Context) ([]model.Template, error) {
	return list[model.Template](ctx, t.resource)
}

// Get returns one template.
func (t Templates) Get(ctx context.Context, ref string) (model.Template, error) {
	return get[model.Template](ctx, t.resource, ref, "")
}

// Build builds the templates that the requested VM would start from, unless they exist.
func (t Templates) Build(ctx context.Context, req model.Create, report step.Reporter) ([]model.Template, error) {
	return create[[]model.Template](ctx, t.resource, "", req, report)
}

// Delete deletes a template and returns what it was.
func (t Templates) Delete(ctx context.Context, ref string) (model.Template, error) {
	return remove[model.Template](ctx, t.resource, ref)
}

// Prune deletes the templates that no start would use any more, or all templates.
func (t Templates) Prune(ctx context.Context, opts TemplatePrune) (model.Pruned, error) {
	return prune(ctx, t.resource, options{}.flag("all", opts.All))
}
