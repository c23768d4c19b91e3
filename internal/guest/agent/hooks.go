package agent

import (
	"context"
	"errors"
	"fmt"
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
)

// hooksDir holds programs of the image that adapt it to another identity. They run as root, in
// lexical order, after everything else and before any other process continues.
const hooksDir = "/etc/banger/fork.d"

// Bounds on hooks.
const (
	hooksTime = 5 * time.Minute // for all hooks together, if the host does not end them before
	maxHooks  = 64
	maxHook   = 64 << 10 // bytes of a hook that are read for what it makes anew
)

// hooks runs the image's fork hooks.
type hooks struct {
	log      *slog.Logger
	commands commands

	cut atomic.Pointer[context.CancelCauseFunc] // ends those that run
}

var errHooksLate = errors.New("the hooks take too long")

// end answers POST /v1/endhooks: the hooks' time is over. Without hooks it does nothing.
func (h *hooks) end(*http.Request) (any, error) {
	if cut := h.cut.Load(); cut != nil {
		(*cut)(errHooksLate)
	}
	return struct{}{}, nil
}

// run runs the executable files in dir. A hook that fails is logged. It is an error only if the
// hook makes files anew: otherwise the machine would share them with others.
func (h *hooks) run(dir string, env ...string) error {
	names := executables(dir)
	if len(names) == 0 {
		return nil
	}
	out, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("running fork hooks: %w", err)
	}
	defer out.Close()
	ctx, stop := context.WithTimeoutCause(context.Background(), hooksTime, errHooksLate)
	defer stop()
	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	h.cut.Store(&cut)
	defer h.cut.Store(nil)
	runner := h.commands.runner()
	runner.Workdir = "/"
	for _, name := range names {
		start := time.Now()
		err := runHook(ctx, runner, filepath.Join(dir, name), env, out)
		if err != nil {
			h.log.Warn("fork hook failed", "hook", name, "took", time.Since(start), "error", err)
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

// renewed lists the files that the fork hooks in a directory say they make anew.
func renewed(dir string) (paths []string) {
	for _, name := range executables(dir) {
		paths = append(paths, renewedBy(filepath.Join(dir, name))...)
	}
	return paths[:min(len(paths), proto.MaxWrites)]
}

// renewedBy lists the files that a fork hook says it makes anew.
func renewedBy(hook string) (paths []string) {
	data, err := readBounded(hook, maxHook)
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
