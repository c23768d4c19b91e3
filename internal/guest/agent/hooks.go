package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/proc"
	"banger/internal/guest/proto"
)

// hooksDir holds programs of the image that adapt it to another identity. They run as root, in
// lexical order, after everything else and before any other process continues.
const hooksDir = "/etc/banger/fork.d"

// Bounds on hooks.
const (
	hooksTime = 10 * time.Second // for all hooks together
	maxHooks  = 64
)

// hooks runs the image's fork hooks.
type hooks struct {
	log      *slog.Logger
	commands commands
}

// run runs the executable files in dir. A failure is logged and changes nothing else: a
// machine that is up is better than none.
func (h hooks) run(dir string, env ...string) {
	names := executables(dir)
	if len(names) == 0 {
		return
	}
	out, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		h.log.Warn("fork hooks", "error", err)
		return
	}
	defer out.Close()
	late := fmt.Errorf("the hooks take longer than %v", hooksTime)
	ctx, cancel := context.WithTimeoutCause(context.Background(), hooksTime, late)
	defer cancel()
	runner := h.commands.runner()
	runner.Workdir = "/"
	for _, name := range names {
		start := time.Now()
		err := runHook(ctx, runner, filepath.Join(dir, name), env, out)
		if err != nil {
			h.log.Warn("fork hook failed", "hook", name, "took", time.Since(start), "error", err)
		}
	}
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
