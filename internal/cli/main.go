// Package cli is the banger program. It holds no logic: a command parses its flags, calls the
// daemon's API, and prints the answer.
//
// A command is a constructor (newXCmd), an options struct that its flags fill, and a function
// runX(ctx, options, app) error. The commands that most kinds of items have (list, show, delete)
// and the completion of names are made in kind.go, from a description of the kind. Commands that do
// the same with each VM named are made in vms.go.
//
// No command exits the process or prints an error. Main does both in one place, exit.go, which maps
// errors to exit statuses and prints hints. Standard output carries only the result. Progress,
// notes and errors go to standard error.
package cli

import (
	"context"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/session"
	"banger/internal/cli/ui"
	"banger/internal/config"
	"banger/internal/paths"
	"banger/internal/step"
)

// Stdio holds a program's standard streams. Only a stream that is an *os.File can be a terminal.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// app holds what commands need of the process, so that no command reads a global.
type app struct {
	Stdio
	env   []string
	began time.Time // when the program began
}

// Main runs banger with the arguments after the program's name and returns its exit status. env has
// the form of os.Environ.
func Main(args []string, stdio Stdio, env []string) int {
	a := &app{Stdio: stdio, env: env, began: time.Now()}
	root := newRootCmd(a)
	root.SetArgs(args)
	root.SetIn(stdio.In)
	root.SetOut(stdio.Out)
	root.SetErr(stdio.Err)
	cmd, err := root.ExecuteContextC(context.Background())
	return a.exit(cmd, args, err)
}

// lookupEnv is os.LookupEnv on the app's environment.
func (a *app) lookupEnv(key string) (string, bool) {
	for _, kv := range slices.Backward(a.env) {
		if name, value, _ := strings.Cut(kv, "="); name == key {
			return value, true
		}
	}
	return "", false
}

func (a *app) getenv(key string) string {
	value, _ := a.lookupEnv(key)
	return value
}

func (a *app) layout() (paths.Layout, error) {
	return paths.FromEnv(a.getenv, os.Getuid())
}

// config loads the configuration from the file and the environment of this process, and returns it
// with the path of the file.
func (a *app) config() (*config.Config, string, error) {
	layout, err := a.layout()
	if err != nil {
		return nil, "", err
	}
	cfg, err := config.Load(layout.ConfigFile(), a.lookupEnv, nil)
	return cfg, layout.ConfigFile(), err
}

// connect returns a client of the daemon. It starts the daemon if none runs.
func (a *app) connect(ctx context.Context) (*api.Client, error) {
	layout, err := a.layout()
	if err != nil {
		return nil, err
	}
	return api.Connect(ctx, layout, true)
}

// style returns the style for a stream. It paints only on a terminal, and not if NO_COLOR is set
// (no-color.org).
func (a *app) style(stream any) ui.Style {
	return ui.Style{On: ui.Terminal(stream) != nil && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb"}
}

// progress returns a view of a long operation on standard error. The caller closes it before it
// prints anything else.
func (a *app) progress(title string) *ui.Progress {
	cols := func() int { return ui.Columns(a.Err) }
	if a.getenv("TERM") == "dumb" {
		cols = func() int { return 0 }
	}
	return ui.NewProgress(a.Err, cols, a.style(a.Err), title)
}

// withProgress runs a long operation under a progress view.
func (a *app) withProgress(title string, run func(step.Reporter) error) error {
	p := a.progress(title)
	defer p.Close()
	return run(p.Report)
}

// interruptible turns run into a command's RunE. The first Ctrl-C, or a similar signal, cancels
// run's context. The second one ends the process. Commands with a session handle signals
// themselves.
func interruptible(run func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		context.AfterFunc(ctx, stop)
		return run(ctx, args)
	}
}

// withSignals runs a session with the process's signals. It ignores SIGTTIN: a background job,
// which may not read from the terminal, then has an empty standard input instead of being stopped.
func withSignals(run func(<-chan os.Signal) (int, error)) (int, error) {
	signal.Ignore(syscall.SIGTTIN)
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, session.Signals()...)
	defer signal.Stop(signals)
	return run(signals)
}
