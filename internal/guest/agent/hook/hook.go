// Package hook runs the fork hooks of an image.
package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/guest/agent/proc"
	"banger/internal/guest/proto"
	"banger/internal/regular"
)

// Dir holds programs of the image that adapt it to another identity. They run as root, in
// lexical order, after everything else and before any other process continues.
const Dir = "/etc/banger/fork.d"

// Bounds on hooks.
const (
	hooksTime = 5 * time.Minute // for all hooks together, if the host does not end them before
	maxHooks  = 64
	maxHook   = 64 << 10 // bytes of a hook that are read for what it makes anew
)

// Service runs the image's fork hooks.
type Service struct {
	Log     *slog.Logger
	Runner  func() *proc.Runner // for one run of the hooks
	Console string              // the file that gets their output

	running atomic.Pointer[run] // nil while none run
}

// run is one run of all hooks.
type run struct {
	began time.Time
	ctx   context.Context
	cut   context.CancelCauseFunc
}

var errLate = errors.New("the hooks take too long")

// End answers POST /v1/endhooks?after=D: it ends the hooks once they have run for D. The host does
// not know when they began. Without hooks it does nothing.
func (h *Service) End(r *http.Request) (any, error) {
	var after time.Duration
	if text := r.URL.Query().Get("after"); text != "" {
		var err error
		if after, err = time.ParseDuration(text); err != nil {
			return nil, fault.New(fault.Invalid, "%q is not a time", text)
		}
	}
	run := h.running.Load()
	if run == nil {
		return struct{}{}, nil
	}
	late := time.NewTimer(after - time.Since(run.began))
	defer late.Stop()
	select {
	case <-late.C:
		run.cut(errLate)
	case <-run.ctx.Done():
	case <-r.Context().Done():
	}
	return struct{}{}, nil
}

// Run runs the executable files in dir. A hook that fails is logged. It is an error only if the
// hook makes files anew: otherwise the machine would share them with others.
func (h *Service) Run(dir string, env ...string) error {
	names := executables(dir)
	if len(names) == 0 {
		return nil
	}
	out, err := os.OpenFile(h.Console, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil && len(Renewed(dir)) > 0 {
		return fmt.Errorf("running fork hooks, which regenerate files: %w", err)
	}
	if err != nil {
		h.Log.Warn("fork hooks do not run", "error", err)
		return nil
	}
	defer out.Close()
	ctx, stop := context.WithTimeoutCause(context.Background(), hooksTime, errLate)
	defer stop()
	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	h.running.Store(&run{began: time.Now(), ctx: ctx, cut: cut})
	defer h.running.Store(nil)
	runner := h.Runner()
	runner.Workdir = "/"
	for _, name := range names {
		start := time.Now()
		err := runHook(ctx, runner, filepath.Join(dir, name), env, out)
		if err != nil {
			h.Log.Warn("fork hook failed", "hook", name, "took", time.Since(start), "error", err)
			if len(renewedBy(filepath.Join(dir, name))) > 0 {
				return fault.New(fault.Unavailable, "the fork hook %s, which regenerates files, failed: %w", name, err)
			}
		}
	}
	return nil
}

func runHook(ctx context.Context, runner *proc.Runner, path string, env []string, out *os.File) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return runner.RunHook(ctx, proto.ExecRequest{Argv: []string{path}, Env: env, User: "0:0"}, out)
}

// executables lists the executable files in a directory in lexical order.
func executables(dir string) []string {
	entries, _ := os.ReadDir(dir) // sorts; most images have none
	var names []string
	for _, e := range entries {
		info, err := os.Stat(filepath.Join(dir, e.Name()))
		if err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			names = append(names, e.Name())
		}
	}
	return names[:min(len(names), maxHooks)]
}

// Renewed lists the files that the fork hooks in a directory say they make anew.
func Renewed(dir string) (paths []string) {
	for _, name := range executables(dir) {
		paths = append(paths, renewedBy(filepath.Join(dir, name))...)
	}
	return paths[:min(len(paths), proto.MaxWrites)]
}

// renewedBy lists the files that a fork hook says it makes anew.
func renewedBy(hook string) (paths []string) {
	f, err := regular.Open(hook)
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxHook))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), proto.WritesRenewed)
		if ok && len(paths) < proto.MaxWrites && filepath.IsAbs(path) {
			paths = append(paths, path)
		}
	}
	return paths
}
