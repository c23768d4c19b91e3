package server

import (
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"banger/internal/api"
	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/requestid"
)

// handler serves one operation. An error that it returns before it wrote anything becomes a
// problem.
type handler func(w http.ResponseWriter, r *http.Request) error

// reply is a ResponseWriter that records the status. http.ResponseController finds the inner one by
// Unwrap.
type reply struct {
	http.ResponseWriter
	status int // 0: nothing was written yet
}

func (w *reply) WriteHeader(status int) {
	w.begin(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *reply) Write(p []byte) (int, error) {
	w.begin(http.StatusOK)
	return w.ResponseWriter.Write(p)
}

// begin records the status of an answer that begins now.
func (w *reply) begin(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *reply) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// guard gives each request an id, counts it, and refuses what no client of ours sends. A web page
// can make a browser send requests, but it cannot omit Origin or choose Host.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(api.HeaderRequestID)
		if !requestid.Valid(id) {
			id = requestid.New()
		}
		w.Header().Set(api.HeaderRequestID, id)
		r = r.WithContext(requestid.With(r.Context(), id))
		out := &reply{ResponseWriter: w}
		defer func() { s.count(out, r) }()
		defer s.recover(out, r)
		if err := refusal(r); err != nil {
			s.fail(out, r, err)
			return
		}
		next.ServeHTTP(out, r)
	})
}

// count counts a request under the route that matched, so that the number of series is bounded.
func (s *Server) count(w *reply, r *http.Request) {
	if s.Count == nil {
		return
	}
	method, route, known := strings.Cut(r.Pattern, " ")
	if !known {
		method, route = "other", "other"
	}
	s.Count(route, method, w.status)
}

func refusal(r *http.Request) error {
	switch {
	case len(r.Header.Values("Origin")) > 0:
		return fault.New(fault.Denied, "requests from web pages are refused")
	case r.Host != api.Host:
		return fault.New(fault.Denied, "requests for the host %.100q are refused", r.Host).
			WithHint("Use http://%s/ as the base of the URL.", api.Host)
	}
	if _, ok := ActorOf(r.Context()); !ok {
		return fault.New(fault.Denied, "the caller is unknown")
	}
	return nil
}

// anyGeneration lists the operations that clients and daemons of different generations may use.
var anyGeneration = []string{"version", "status", "shutdown"}

func checkGeneration(op api.Operation, r *http.Request) error {
	for _, id := range anyGeneration {
		if op.ID == id {
			return nil
		}
	}
	stated := r.Header.Get(api.HeaderGeneration)
	if stated == "" || stated == strconv.Itoa(api.Generation) {
		return nil
	}
	return fault.New(fault.Unsupported,
		"bangerd speaks generation %d of the API, and this client %.20s: they are of different versions",
		api.Generation, stated).WithHint("banger daemon restart (VMs go on running)")
}

// serve wraps a handler with what all operations have in common.
func (s *Server) serve(op api.Operation, h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		actor, _ := ActorOf(r.Context())
		err := checkGeneration(op, r)
		if err == nil && !actor.May(op.Permission) {
			err = fault.New(fault.Denied, "user %d may not do that", actor.UID)
		}
		if err == nil && op.NeedsRoom && s.Room != nil {
			err = s.Room()
			if op.Kind == api.KindUpload || op.Kind == api.KindImport {
				r.Body = bounded(r.Body, disk.NewRoom(s.Room))
			}
		}
		if err == nil {
			err = h(w, r)
		}
		if err != nil {
			s.fail(w, r, err)
		}
		s.Log.DebugContext(r.Context(), "request", "operation", op.ID, "ref", r.PathValue("ref"), "uid", actor.UID,
			"took", time.Since(start), "error", err)
	})
}

// bounded returns a request's content, which ends with an error when there is no room for more.
func bounded(body io.ReadCloser, room *disk.Room) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{io.TeeReader(body, room), body}
}

// recover turns a handler's panic into a problem: one request must not end the daemon that holds
// all VMs.
func (s *Server) recover(w *reply, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler { // deliberate: it cuts the connection
		panic(p)
	}
	s.Log.ErrorContext(r.Context(), "panic in a handler",
		"method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	s.fail(w, r, fault.New(fault.Internal, "bangerd made a mistake: %v", p).
		WithHint("Please report it, with %s.", s.Layout.DaemonLog()))
}
