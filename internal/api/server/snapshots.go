package server

import (
	"context"
	"io"
	"net/http"

	"banger/internal/api"
	"banger/internal/model"
	"banger/internal/step"
)

// Holder pauses, resumes, suspends and forks VMs.
type Holder interface {
	Pause(ctx context.Context, ref string, report step.Reporter) (model.VM, error)
	Resume(ctx context.Context, ref string, report step.Reporter) (model.VM, error)
	Suspend(ctx context.Context, ref string, report step.Reporter) (model.VM, error)
	Fork(ctx context.Context, ref string, req model.Fork, report step.Reporter) (model.Forked, error)
	CreateSnapshot(ctx context.Context, ref, name string, report step.Reporter) (model.Snapshot, error)
	RestoreSnapshot(ctx context.Context, ref string, req model.Restore, report step.Reporter) (model.Forked, error)
}

// Library is the part of the stored snapshots that the API uses.
type Library interface {
	List(ctx context.Context) ([]model.Snapshot, error)
	Get(ctx context.Context, ref string) (model.Snapshot, error)
	Delete(ctx context.Context, ref string) (model.Snapshot, error)
	Export(ctx context.Context, ref string, w io.Writer, report step.Reporter) error
	Import(ctx context.Context, r io.Reader, name string, report step.Reporter) (model.Snapshot, error)
}

func (s *Server) holdHandlers() map[string]handler {
	return map[string]handler{
		"pauseVM":   s.holding(s.Manager.Pause),
		"resumeVM":  s.holding(s.Manager.Resume),
		"suspendVM": s.holding(s.Manager.Suspend),
		"forkVM": s.steps(func(w http.ResponseWriter, r *http.Request, report step.Reporter) (any, error) {
			req, err := decode[model.Fork](w, r)
			if err != nil {
				return nil, err
			}
			return forked(s.Manager.Fork(r.Context(), r.PathValue("ref"), req, report))
		}),
	}
}

// holding makes a handler of an operation whose only input is the VM.
func (s *Server) holding(do func(ctx context.Context, ref string, report step.Reporter) (model.VM, error)) handler {
	return s.steps(func(_ http.ResponseWriter, r *http.Request, report step.Reporter) (any, error) {
		return do(r.Context(), r.PathValue("ref"), report)
	})
}

// forked makes sure that the children are never null in JSON.
func forked(f model.Forked, err error) (any, error) {
	if f.Children == nil {
		f.Children = []model.Child{}
	}
	return f, err
}

func (s *Server) snapshotHandlers() map[string]handler {
	ref := func(r *http.Request) string { return r.PathValue("ref") }
	return map[string]handler{
		"listSnapshots": answer(func(r *http.Request) (any, error) { return list(s.Library.List(r.Context())) }),
		"getSnapshot":   answer(func(r *http.Request) (any, error) { return s.Library.Get(r.Context(), ref(r)) }),
		"createSnapshot": s.steps(func(w http.ResponseWriter, r *http.Request, report step.Reporter) (any, error) {
			req, err := decode[api.SnapshotCreate](w, r)
			if err == nil {
				err = required("vm", req.VM)
			}
			if err != nil {
				return nil, err
			}
			return s.Manager.CreateSnapshot(r.Context(), req.VM, req.Name, report)
		}),
		"deleteSnapshot":  answer(func(r *http.Request) (any, error) { return s.Library.Delete(r.Context(), ref(r)) }),
		"restoreSnapshot": s.steps(s.restoreSnapshot),
		"exportSnapshot": func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Content-Type", "application/octet-stream")
			return s.Library.Export(r.Context(), ref(r), w, nil)
		},
		"importSnapshot": s.importSnapshot,
	}
}

func (s *Server) restoreSnapshot(w http.ResponseWriter, r *http.Request, report step.Reporter) (any, error) {
	q := queryOf(r, "force")
	force := q.flag("force")
	if q.err != nil {
		return nil, q.err
	}
	req, err := decode[model.Restore](w, r)
	if err != nil {
		return nil, err
	}
	req.Force = force
	return forked(s.Manager.RestoreSnapshot(r.Context(), r.PathValue("ref"), req, report))
}

func (s *Server) importSnapshot(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r, "name")
	if q.err != nil {
		return q.err
	}
	// Only a reader: see putFiles.
	snap, err := s.Library.Import(r.Context(), struct{ io.Reader }{r.Body}, q.text("name"), nil)
	if err == nil {
		return writeResult(w, snap)
	}
	// Gigabytes may follow, so the client gets the refusal before it has sent them.
	rc := http.NewResponseController(w)
	if rc.EnableFullDuplex() != nil {
		letFinish(w, r)
		return err
	}
	s.fail(w, r, err)
	if rc.Flush() == nil {
		letFinish(w, r)
	}
	return nil
}
