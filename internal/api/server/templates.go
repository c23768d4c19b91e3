package server

import (
	"context"
	"net/http"

	"banger/internal/model"
	"banger/internal/step"
)

// Templates is the part of the templates that the API uses.
type Templates interface {
	Templates(ctx context.Context) ([]model.Template, error)
	Template(ctx context.Context, ref string) (model.Template, error)
	BuildTemplate(ctx context.Context, req model.Create, report step.Reporter) ([]model.Template, error)
	DeleteTemplate(ctx context.Context, ref string) (model.Template, error)
	PruneTemplates(ctx context.Context, stale bool) (model.Pruned, error)
}

func (s *Server) templateHandlers() map[string]handler {
	ref := func(r *http.Request) string { return r.PathValue("ref") }
	return map[string]handler{
		"listTemplates": answer(func(r *http.Request) (any, error) { return list(s.Manager.Templates(r.Context())) }),
		"getTemplate":   answer(func(r *http.Request) (any, error) { return s.Manager.Template(r.Context(), ref(r)) }),
		"buildTemplates": s.steps(func(w http.ResponseWriter, r *http.Request, report step.Reporter) (any, error) {
			req, err := decode[model.Create](w, r)
			if err != nil {
				return nil, err
			}
			return list(s.Manager.BuildTemplate(r.Context(), req, report))
		}),
		"deleteTemplate": answer(func(r *http.Request) (any, error) { return s.Manager.DeleteTemplate(r.Context(), ref(r)) }),
		"pruneTemplates": answer(func(r *http.Request) (any, error) {
			q := queryOf(r, "all")
			all := q.flag("all")
			if q.err != nil {
				return nil, q.err
			}
			return pruned(s.Manager.PruneTemplates(r.Context(), !all))
		}),
	}
}
