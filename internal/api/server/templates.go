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

func (s *Server) templateHandlers() map[string]handler {
	ref := func(r *http.Request) string { return r.PathValue("ref") }
	return map[string]handler{
		"listTemplates": answer(func(r *http.Request) (any, error) { return list(s.Templates.List(r.Context())) }),
		"getTemplate":   answer(func(r *http.Request) (any, error) { return s.Templates.Get(r.Context(), ref(r)) }),
		"buildTemplates": s.steps(func(w http.ResponseWriter, r *http.Request, report step.Reporter) (any, error) {
			req, err := decode[model.Create](w, r)
			if err != nil {
				return nil, err
			}
			return list(s.Manager.BuildTemplate(r.Context(), req, report))
		}),
		"deleteTemplate": answer(func(r *http.Request) (any, error) { return s.Templates.Delete(r.Context(), ref(r)) }),
		"pruneTemplates": answer(func(r *http.Request) (any, error) {
			q := queryOf(r, "all")
			all := q.flag("all")
			if q.err != nil {
				return nil, q.err
			}
			return pruned(s.Templates.Prune(r.Context(), !all))
		}),
	}
}
