package server

import (
	"context"
	"log/slog"
	"net/http"
	"strings"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/requestid"
)

// core turns what operations return into answers: errors into problems, long operations into events
// (steps.go), refused uploads into early answers (upload.go).
type core struct {
	log *slog.Logger
	vm  func(ref string) (model.VM, error) // the record that a problem refers to
}

// fail answers with a problem. If an answer has begun, the problem becomes its trailer. A client
// that does not read trailers has its answer cut off, so that it does not take the answer for
// complete.
func (c *core) fail(w http.ResponseWriter, r *http.Request, err error) {
	if out, ok := w.(*reply); ok && out.status != 0 {
		c.log.WarnContext(r.Context(), "cutting off an answer", "path", r.URL.Path, "error", err)
		if !takesTrailers(w, r) {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set(http.TrailerPrefix+api.TrailerProblem, c.problem(r.Context(), err, vmRef(r)).Trailer())
		return
	}
	p := c.problem(r.Context(), err, vmRef(r))
	if err := writeJSON(w, p.Status, "application/problem+json", p); err != nil {
		c.log.DebugContext(r.Context(), "writing a problem", "error", err)
	}
}

// takesTrailers reports whether an answer that has begun can end with a trailer. An answer with a
// Content-Length has no place for one.
func takesTrailers(w http.ResponseWriter, r *http.Request) bool {
	for _, accepted := range strings.Split(strings.Join(r.Header.Values("TE"), ","), ",") {
		if strings.EqualFold(strings.TrimSpace(accepted), "trailers") {
			return r.ProtoAtLeast(1, 1) && w.Header().Get("Content-Length") == ""
		}
	}
	return false
}

// problem describes err, with the request's id and what the VM's record says about the failure. It
// logs an internal error, because the log is where a bug report is followed up, and a shortage of
// the host, because it concerns all clients.
func (c *core) problem(ctx context.Context, err error, ref string) *api.Problem {
	p := api.ProblemOf(err)
	p.RequestID = requestid.From(ctx)
	if p.Kind == string(fault.Internal) {
		c.log.ErrorContext(ctx, "internal error", "ref", ref, "error", err)
	} else if fault.IsShortage(err) {
		c.log.WarnContext(ctx, "the host has run out of something", "ref", ref, "error", err)
	}
	if ref == "" {
		return p
	}
	if v, err := c.vm(ref); err == nil {
		addRecord(p, v)
	}
	return p
}

// streamProblem describes err for a FrameError.
func (c *core) streamProblem(ctx context.Context, err error, ref string) api.StreamProblem {
	p := c.problem(ctx, err, ref)
	return api.StreamProblem{Problem: *p, Message: p.Detail}
}

// vmRef returns the VM that a request is about, or "". A snapshot may have the same name as a VM.
func vmRef(r *http.Request) string {
	if !strings.HasPrefix(r.URL.Path, "/v1/vms/") {
		return ""
	}
	return r.PathValue("ref")
}

func addRecord(p *api.Problem, v model.VM) {
	p.VM = v.ID
	last := v.LastError
	if last == nil || p.Step == "" || last.Step != p.Step {
		return
	}
	p.Log = last.Log
	if p.Hint == "" {
		p.Hint = last.Hint
	}
}
