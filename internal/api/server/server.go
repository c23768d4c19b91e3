// Package server serves the API on a unix socket: it checks the caller, decodes and bounds the
// request, calls the manager and encodes the answer. It holds no logic of VMs.
//
// routes.go joins the operations and their handlers. The handlers of each resource are a type of
// their own, in the resource's file; what they need of the daemon is an interface beside them.
//
// Words: an operation is a row of api.Operations. A session is an operation that has left HTTP (an
// upgraded stream) or lasts long (a followed log, a plain exec call). The end of a VM or of the
// daemon ends its sessions. An upload is the content of an import, stored in a directory of its own
// until the import ends.
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
	"time"

	"banger/internal/api"
	"banger/internal/api/session"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/paths"
)

// Manager is the part of the VMs that the API uses. The handlers of a resource use one part of it.
type Manager interface {
	VMs
	Agents
	Saver
	Builder
	Users
}

// Config is what a Server is built from.
type Config struct {
	Manager   Manager
	Library   Library
	Templates Templates
	Images    Images
	Kernels   Kernels
	Sessions  *session.Set // the manager has it as an observer
	Layout    paths.Layout
	Version   api.Version
	Status    func(context.Context) api.Status // without the VMs
	Usage     func(context.Context) (model.DiskUsage, error)
	Shutdown  func()       // begins to stop the daemon; returns at once
	Room      func() error // refuses operations that need space; may be nil

	Count   func(route, method string, code int) // counts a request that was answered; may be nil
	Metrics http.Handler                         // answers with the metrics; may be nil
	Log     *slog.Logger
}

// Server serves the API.
type Server struct {
	Config
	*core
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
	guestTimeout  = 10 * time.Second // for a guest to answer a short question; nominal
)

var errStopping = fault.New(fault.Unavailable, "bangerd is shutting down").WithHint("Try again: bangerd starts on demand.")

// New returns a server that serves nothing yet.
func New(cfg Config) (*Server, error) {
	s := &Server{Config: cfg, core: &core{log: cfg.Log, vm: cfg.Manager.Get}}
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
	s.Sessions.End(errStopping)
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
	return s.Sessions.Wait(ctx)
}
