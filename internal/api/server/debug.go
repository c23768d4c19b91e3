package server

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"runtime/pprof"
	"runtime/trace"
	"strings"
	"time"

	"banger/internal/fault"
)

const (
	maxProfile     = 300      // seconds of a CPU profile or a trace
	defaultProfile = 30       // seconds
	maxGoroutines  = 16 << 20 // bytes of a goroutine dump
)

// The functions of this file look inside the daemon. They do not use net/http/pprof, which would
// make bangerd 0.5 MB larger and each start slower.

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

// profiles lists the names of the profiles and their sizes.
func profiles(w http.ResponseWriter, _ *http.Request) error {
	var list strings.Builder
	for _, p := range pprof.Profiles() {
		fmt.Fprintf(&list, "%s %d\n", p.Name(), p.Count())
	}
	list.WriteString("profile\ntrace\n")
	return writeBody(w, http.StatusOK, "text/plain; charset=utf-8", []byte(list.String()))
}

// profile writes one profile: what the runtime has counted, or the CPU profile or the trace of the
// next seconds.
func profile(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r, "seconds", "debug", "gc")
	seconds, form, gc := q.number("seconds", 1, maxProfile), q.number("debug", 0, 2), q.number("gc", 0, 1)
	if q.err != nil {
		return q.err
	}
	if seconds == 0 {
		seconds = defaultProfile
	}
	took := time.Duration(seconds) * time.Second
	w.Header().Set("Content-Type", "application/octet-stream")
	switch name := r.PathValue("name"); name {
	case "profile":
		if err := pprof.StartCPUProfile(w); err != nil {
			return fault.New(fault.Locked, "starting a CPU profile: %w", err)
		}
		defer pprof.StopCPUProfile()
		return wait(r.Context(), took)
	case "trace":
		if err := trace.Start(w); err != nil {
			return fault.New(fault.Locked, "starting a trace: %w", err)
		}
		defer trace.Stop()
		return wait(r.Context(), took)
	default:
		p := pprof.Lookup(name)
		if p == nil {
			return fault.New(fault.NotFound, "there is no profile %.40q", name).
				WithHint("GET /debug/pprof/ lists the profiles.")
		}
		if gc > 0 {
			runtime.GC()
		}
		if form > 0 {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		}
		return p.WriteTo(w, form)
	}
}

// wait returns after d or at the end of ctx, with the cause of that.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
