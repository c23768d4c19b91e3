package server

import (
	"context"
	"net/http"

	"banger/internal/model"
	"banger/internal/step"
)

// Templates is the part of the templates that the API uses.
type Templates interface {
	List(ctx context.Context) ([]model.Template, error)
	// Get finds a template by the beginning of its key, or by the id of its image.
	Get(ctx context.Context, ref, imageID string) (model.Template, error)
	Delete(ctx context.Context, ref, imageID string) (model.Template, error)
	Prune(ctx context.Context, stale bool) (model.Pruned, error)
}

// Builder builds the templates that a VM would start from.
type Builder interface {
	BuildTemplate(ctx context.Context, req model.Create, report step.Reporter) ([]model.Template, error)
}

// templateHandlers serve the operations on templates.
type templateHandlers struct {
	templates Templates
	builder   Builder
	images    Images
}

func (h templateHandlers) list(r *http.Request) (any, error) {
	list, err := h.templates.List(r.Context())
	names := namesOf(h.images)
	for i, t := range list {
		list[i].ImageMoved = names.moved(t.Image, t.ImageID)
	}
	return orEmpty(list, err)
}

func (h templateHandlers) get(r *http.Request) (any, error) {
	names := namesOf(h.images)
	t, err := h.templates.Get(r.Context(), refOf(r), names.id(refOf(r)))
	t.ImageMoved = names.moved(t.Image, t.ImageID)
	return t, err
}

func (h templateHandlers) build(r *http.Request, req model.Create, report step.Reporter) (any, error) {
	return orEmpty(h.builder.BuildTemplate(r.Context(), req, report))
}

func (h templateHandlers) delete(r *http.Request) (any, error) {
	return h.templates.Delete(r.Context(), refOf(r), namesOf(h.images).id(refOf(r)))
}

func (h templateHandlers) prune(r *http.Request) (any, error) {
	q := queryOf(r, "all")
	all := q.flag("all")
	if q.err != nil {
		return nil, q.err
	}
	return pruned(h.templates.Prune(r.Context(), !all))
}
