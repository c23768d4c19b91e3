package server

import (
	"net/http"
	"net/http/pprof"
	"runtime"
	"strconv"

	"banger/internal/fault"
)

// maxProfile bounds how long a CPU profile or a trace may take, seconds.
const maxProfile = 300

// maxGoroutines bounds a goroutine dump, bytes.
const maxGoroutines = 16 << 20

func (s *Server) debugHandlers() map[string]handler {
	return map[string]handler{
		"metrics":    s.metrics,
		"goroutines": goroutines,
		"profiles":   plain(pprof.Index),
		"profile":    profile,
	}
}

// plain makes a handler of one that writes its own errors.
func plain(h http.HandlerFunc) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		h(w, r)
		return nil
	}
}

func (s *Server) metrics(w http.ResponseWriter, r *http.Request) error {
	if s.Metrics == nil {
		return fault.New(fault.Unsupported, "this daemon counts nothing")
	}
	s.Metrics.ServeHTTP(w, r)
	return nil
}

// goroutines writes the stacks of all goroutines as text, as a crash does.
func goroutines(w http.ResponseWriter, _ *http.Request) error {
	buf := make([]byte, 256<<10)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) || len(buf) >= maxGoroutines {
			return writeBody(w, http.StatusOK, "text/plain; charset=utf-8", buf[:n])
		}
		buf = make([]byte, 2*len(buf))
	}
}

// profile writes one profile of package runtime/pprof, or a CPU profile or trace of the next
// seconds.
func profile(w http.ResponseWriter, r *http.Request) error {
	if text := r.URL.Query().Get("seconds"); text != "" {
		if n, err := strconv.Atoi(text); err != nil || n < 1 || n > maxProfile {
			return fault.New(fault.Invalid, "query parameter seconds: %.100q is not a number from 1 to %d", text, maxProfile)
		}
	}
	switch name := r.PathValue("name"); name {
	case "cmdline":
		pprof.Cmdline(w, r)
	case "profile":
		pprof.Profile(w, r)
	case "symbol":
		pprof.Symbol(w, r)
	case "trace":
		pprof.Trace(w, r)
	default:
		pprof.Handler(name).ServeHTTP(w, r)
	}
	return nil
}
