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
	Get(ctx context.Context, ref string) (model.Template, error)
	Delete(ctx context.Context, ref string) (model.Template, error)
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
}

func (h templateHandlers) list(r *http.Request) (any, error) {
	return orEmpty(h.templates.List(r.Context()))
}

func (h templateHandlers) get(r *http.Request) (any, error) {
	return h.templates.Get(r.Context(), refOf(r))
}

func (h templateHandlers) build(r *http.Request, req model.Create, report step.Reporter) (any, error) {
	return orEmpty(h.builder.BuildTemplate(r.Context(), req, report))
}

func (h templateHandlers) delete(r *http.Request) (any, error) {
	return h.templates.Delete(r.Context(), refOf(r))
}

func (h templateHandlers) prune(r *http.Request) (any, error) {
	q := queryOf(r, "all")
	all := q.flag("all")
	if q.err != nil {
		return nil, q.err
	}
	return pruned(h.templates.Prune(r.Context(), !all))
}
