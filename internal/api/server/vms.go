package server

import (
	"context"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// maxStopTimeout bounds the timeout of a stop. A longer one is probably a wrong unit.
const maxStopTimeout = 24 * time.Hour

func (s *Server) vmHandlers() map[string]handler {
	ref := func(r *http.Request) string { return r.PathValue("ref") }
	return map[string]handler{
		"listVMs": answer(func(*http.Request) (any, error) { return list(s.Manager.List(), nil) }),
		"createVM": s.steps(func(w http.ResponseWriter, r *http.Request, report step.Reporter) (any, error) {
			q := queryOf(r, "start")
			start := q.flag("start")
			if q.err != nil {
				return nil, q.err
			}
			req, err := decode[model.Create](w, r)
			if err != nil {
				return nil, err
			}
			if start {
				return s.Manager.Launch(r.Context(), req, naming(report), report)
			}
			return s.Manager.Create(r.Context(), req, report)
		}),
		"pruneVMs": answer(func(r *http.Request) (any, error) { return pruned(s.Manager.Prune(r.Context())) }),
		"getVM":    answer(func(r *http.Request) (any, error) { return s.Manager.Get(ref(r)) }),
		"changeVM": s.changeVM,
		"deleteVM": s.steps(func(_ http.ResponseWriter, r *http.Request, report step.Reporter) (any, error) {
			q := queryOf(r, "force")
			force := q.flag("force")
			if q.err != nil {
				return nil, q.err
			}
			return nil, s.Manager.Delete(r.Context(), ref(r), force, report)
		}),
		"startVM": s.steps(func(w http.ResponseWriter, r *http.Request, report step.Reporter) (any, error) {
			req, err := decode[model.Start](w, r)
			if err != nil {
				return nil, err
			}
			return s.Manager.Start(r.Context(), ref(r), req, report)
		}),
		"stopVM":    s.stopping(s.Manager.Stop),
		"restartVM": s.stopping(s.Manager.Restart),
		"killVM":    s.killVM,
		"renameVM":  s.renameVM,
		"vmStats":   answer(s.vmStats),
		"vmPorts":   answer(s.vmPorts),
		"vmLogs":    s.vmLogs,
		"getFiles":  s.getFiles,
		"putFiles":  s.putFiles,
	}
}

// list makes sure that a list is never null in JSON.
func list[T any](all []T, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	if all == nil {
		all = []T{}
	}
	return all, nil
}

func pruned(p model.Pruned, err error) (any, error) {
	if p.Removed == nil {
		p.Removed = []string{}
	}
	return p, err
}

func (s *Server) changeVM(w http.ResponseWriter, r *http.Request) error {
	change, err := decode[model.Change](w, r)
	if err != nil {
		return err
	}
	changed, err := s.Manager.Set(r.Context(), r.PathValue("ref"), change)
	if err != nil {
		return err
	}
	return writeResult(w, changed)
}

type stop func(ctx context.Context, ref string, timeout *time.Duration, report step.Reporter) (model.VM, error)

func (s *Server) stopping(do stop) handler {
	return s.steps(func(w http.ResponseWriter, r *http.Request, report step.Reporter) (any, error) {
		req, err := decode[api.VMStop](w, r)
		if err != nil {
			return nil, err
		}
		if t := req.Timeout; t != nil && (*t < 0 || *t > maxStopTimeout) {
			return nil, fault.New(fault.Invalid, "field \"timeout\": %v is not between 0 and %v", *t, maxStopTimeout)
		}
		return do(r.Context(), r.PathValue("ref"), req.Timeout, report)
	})
}

func (s *Server) killVM(w http.ResponseWriter, r *http.Request) error {
	req, err := decode[api.VMKill](w, r)
	if err != nil {
		return err
	}
	sig, err := parseSignal(req.Signal)
	if err != nil {
		return err
	}
	v, err := s.Manager.Kill(r.Context(), r.PathValue("ref"), sig)
	if err != nil {
		return err
	}
	return writeResult(w, v)
}

// parseSignal reads a signal's name, with or without SIG, or its number. An empty text is SIGKILL.
func parseSignal(text string) (syscall.Signal, error) {
	const last = 64 // SIGRTMAX (signal(7))
	if text == "" {
		return syscall.SIGKILL, nil
	}
	if n, err := strconv.Atoi(text); err == nil && n >= 1 && n <= last {
		return syscall.Signal(n), nil
	}
	name := "SIG" + strings.TrimPrefix(strings.ToUpper(text), "SIG")
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, fault.New(fault.Invalid, "%.40q is not a signal", text).WithHint("Use a name such as TERM or KILL, or a number.")
}

func (s *Server) renameVM(w http.ResponseWriter, r *http.Request) error {
	req, err := decode[api.VMRename](w, r)
	if err != nil {
		return err
	}
	v, err := s.Manager.Rename(r.Context(), r.PathValue("ref"), req.Name)
	if err != nil {
		return err
	}
	return writeResult(w, v)
}

func (s *Server) vmStats(r *http.Request) (any, error) {
	ctx, cancel := context.WithTimeout(r.Context(), guestTimeout)
	defer cancel()
	return s.Manager.Stats(ctx, r.PathValue("ref"))
}

func (s *Server) vmPorts(r *http.Request) (any, error) {
	_, agent, err := s.running(r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), guestTimeout)
	defer cancel()
	return list(agent.Ports(ctx))
}

// guestPath reads the path parameter.
func guestPath(r *http.Request) (string, error) {
	const maxPath = 4096 // PATH_MAX of Linux
	q := queryOf(r, "path")
	p := q.text("path")
	switch {
	case q.err != nil:
		return "", q.err
	case !path.IsAbs(p):
		return "", fault.New(fault.Invalid, "query parameter path: %.100q is not an absolute path", p)
	case len(p) >= maxPath || strings.ContainsRune(p, 0):
		return "", fault.New(fault.Invalid, "query parameter path: %.100q... cannot be a path", p)
	}
	return p, nil
}

// getFiles streams files out of the guest. An error in the middle ends the answer: see fail.
func (s *Server) getFiles(w http.ResponseWriter, r *http.Request) error {
	p, err := guestPath(r)
	if err != nil {
		return err
	}
	_, agent, unuse, err := s.use(r)
	if err != nil {
		return err
	}
	defer unuse()
	archive, err := agent.GetFiles(r.Context(), p)
	if err != nil {
		return err
	}
	defer archive.Close()
	w.Header().Set("Content-Type", "application/x-tar")
	w.WriteHeader(http.StatusOK)
	return pump(w, archive)
}

func (s *Server) putFiles(w http.ResponseWriter, r *http.Request) error {
	p, err := guestPath(r)
	if err != nil {
		return err
	}
	_, agent, unuse, err := s.use(r)
	if err != nil {
		return err
	}
	defer unuse()
	// The agent gets only a reader, so that it cannot close the body.
	if err := agent.PutFiles(r.Context(), p, struct{ io.Reader }{r.Body}); err != nil {
		letFinish(w, r)
		return err
	}
	return writeResult(w, nil)
}

// letFinish reads the rest of an unwanted body, because a client may read the answer only after it
// has sent all.
func letFinish(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	_ = pump(io.Discard, r.Body)
}
