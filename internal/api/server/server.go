// Package server serves the API on a unix socket: it checks the caller, decodes and bounds the
// request,
// calls the manager and encodes the answer. It holds no logic of VMs.
//
// Words: an operation is a row of api.Operations. A session is an operation that has left HTTP (an
// upgraded
// stream) or lasts long (a followed log, a plain exec call). The end of a VM or of the daemon ends
// its
// sessions. An upload is the content of an import, stored in a directory of its own until the
// import ends.
//
// Each request gets an id, which its context carries into every log line (guard.go).
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/step"
)

// Manager is the part of the VMs that the API uses. A ref is a name, an id, or a unique prefix of
// an id.
type Manager interface {
	Create(ctx context.Context, req model.Create, report step.Reporter) (model.VM, error)
	// Launch creates and starts a VM. It returns the VM also with an error, if the VM exists by
	// then.
	Launch(ctx context.Context, req model.Create, made func(model.VM), report step.Reporter) (model.VM, error)
	Get(ref string) (model.VM, error)
	List() []model.VM
	Start(ctx context.Context, ref string, how model.Start, report step.Reporter) (model.VM, error)
	Stop(ctx context.Context, ref string, timeout *time.Duration, report step.Reporter) (model.VM, error)
	Kill(ctx context.Context, ref string, sig syscall.Signal) (model.VM, error)
	Restart(ctx context.Context, ref string, timeout *time.Duration, report step.Reporter) (model.VM, error)
	Delete(ctx context.Context, ref string, force bool, report step.Reporter) error
	Rename(ctx context.Context, ref, name string) (model.VM, error)
	Set(ctx context.Context, ref string, change model.Change) (model.Changed, error)
	Prune(ctx context.Context) (model.Pruned, error)
	Stats(ctx context.Context, ref string) (model.Stats, error)
	Agent(ref string) (machine.Agent, error)
	// Use is Agent and counts as use of the VM until done is called. It wakes a VM that was
	// suspended while idle.
	Use(ctx context.Context, ref string) (v model.VM, agent machine.Agent, done func(), err error)
	// References prevents new users of images and kernels while f runs.
	References(f func(images, kernels map[string][]string) error) error

	Holder
	BuildTemplate(ctx context.Context, req model.Create, report step.Reporter) ([]model.Template, error)
}

// Images is the part of the images that the API uses. inUse returns the users of an image's id: VMs
// by name, snapshots as "snapshot NAME". An image with users is not removed (fault.WrongState).
type Images interface {
	List() ([]model.Image, error)
	Get(ref string) (model.Image, error)
	Pull(ctx context.Context, req api.ImagePull, report step.Reporter) (model.Image, error)
	// Import makes an image of the file at path, which it may read but not keep.
	Import(ctx context.Context, path string, req api.ImageImport, report step.Reporter) (model.Image, error)
	Delete(ctx context.Context, ref string, inUse func(id string) []string) error
	Prune(ctx context.Context, inUse func(id string) []string) (model.Pruned, error)
}

// Kernels is the part of the kernels that the API uses. inUse is as for Images.
type Kernels interface {
	List() ([]model.Kernel, error)
	Get(ref string) (model.Kernel, error)
	Pull(ctx context.Context, req api.KernelPull, report step.Reporter) (model.Kernel, error)
	Import(ctx context.Context, files KernelFiles, req api.KernelImport, report step.Reporter) (model.Kernel, error)
	Delete(ctx context.Context, ref string, inUse func(id string) []string) error
	Prune(ctx context.Context, inUse func(id string) []string) (model.Pruned, error)
}

// Config is what a Server is built from.
type Config struct {
	Manager   Manager
	Library   Library
	Templates Templates
	Images    Images
	Kernels   Kernels
	Sessions  *Sessions // the manager has it as an observer
	Layout    paths.Layout
	Version   api.Version
	Status    func(context.Context) api.Status // without the VMs
	Usage     func(context.Context) (model.DiskUsage, error)
	Shutdown  func() // begins to stop the daemon; returns at once

	Count   func(route, method string, code int) // counts a request that was answered; may be nil
	Metrics http.Handler                         // answers with the metrics; may be nil
	Log     *slog.Logger
}

// Server serves the API.
type Server struct {
	Config
	http *http.Server

	execBytes atomic.Int64 // output that plain exec calls hold

	work    context.Context // of requests and sessions; Shutdown ends it
	endWork context.CancelCauseFunc
}

// Bounds of a request. A client runs as the same user, but may be broken, or in a sandbox that was
// given the socket.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 16 << 10 // bytes
	maxBody       = 1 << 20  // bytes of a JSON body
	bodyTimeout   = 10 * time.Second
	replyTimeout  = 30 * time.Second // for a client to read a JSON reply
	guestTimeout  = 20 * time.Second // for a guest to answer a short question
)

var errStopping = fault.New(fault.Unavailable, "bangerd is shutting down").WithHint("Try again: bangerd starts on demand.")

// New returns a server that serves nothing yet.
func New(cfg Config) (*Server, error) {
	s := &Server{Config: cfg}
	s.work, s.endWork = context.WithCancelCause(context.Background())
	mux, err := s.routes()
	if err != nil {
		return nil, err
	}
	s.http = &http.Server{
		Handler:           s.guard(mux),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return s.work },
		ConnContext:       withActor,
	}
	return s, nil
}

// Serve accepts connections from l, which Listen made, until Shutdown.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the API: %w", err)
	}
	return nil
}

// Shutdown stops accepting, ends the sessions and waits for operations under way. If ctx ends
// first, it cancels them and gives them a grace time to undo their work.
func (s *Server) Shutdown(ctx context.Context, grace time.Duration) error {
	s.Sessions.end(errStopping)
	err := s.drain(ctx)
	if err == nil {
		s.endWork(errStopping)
		return nil
	}
	s.Log.WarnContext(ctx, "calling off operations that are still under way", "error", err)
	s.endWork(errStopping)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := s.drain(last); err != nil {
		return errors.Join(fmt.Errorf("waiting for operations to end: %w", err), s.http.Close())
	}
	return nil
}

func (s *Server) drain(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		return err
	}
	return s.Sessions.wait(ctx)
}

// routes joins the table and the handlers. It is an error if one lacks a row of the other.
func (s *Server) routes() (*http.ServeMux, error) {
	handlers := s.handlers()
	mux := http.NewServeMux()
	for _, op := range api.Operations() {
		h, ok := handlers[op.ID]
		if !ok {
			return nil, fmt.Errorf("building the API: operation %s has no handler", op.ID)
		}
		delete(handlers, op.ID)
		mux.Handle(op.Method+" "+op.Path, s.serve(op, h))
	}
	for id := range handlers {
		return nil, fmt.Errorf("building the API: the handler of %s has no operation", id)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, fault.New(fault.NotFound, "there is no %s %s in this API", r.Method, r.URL.Path).
			WithHint("GET /v1/openapi.json describes what there is."))
	})
	return mux, nil
}

func (s *Server) handlers() map[string]handler {
	all := map[string]handler{
		"version":  answer(func(*http.Request) (any, error) { return s.Version, nil }),
		"status":   answer(s.status),
		"openapi":  s.openapi,
		"usage":    answer(s.usage),
		"shutdown": answer(func(*http.Request) (any, error) { s.Config.Shutdown(); return nil, nil }),
	}
	for _, part := range []map[string]handler{
		s.vmHandlers(), s.holdHandlers(), s.streamHandlers(), s.imageHandlers(), s.kernelHandlers(),
		s.snapshotHandlers(), s.templateHandlers(), s.debugHandlers(),
	} {
		for id, h := range part {
			all[id] = h
		}
	}
	return all
}

func (s *Server) status(r *http.Request) (any, error) {
	status := s.Config.Status(r.Context())
	status.Version = s.Version
	status.VMs = map[model.State]int{}
	for _, v := range s.Manager.List() {
		status.VMs[v.State]++
	}
	return status, nil
}

func (s *Server) usage(r *http.Request) (any, error) {
	u, err := s.Usage(r.Context())
	if u.Rows == nil {
		u.Rows = []model.UsageRow{}
	}
	return u, err
}

func (s *Server) openapi(w http.ResponseWriter, _ *http.Request) error {
	return writeBody(w, http.StatusOK, "application/json", api.Document())
}
