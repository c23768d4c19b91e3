// Package cli is the banger program. It holds no logic: a command parses its flags, calls the daemon's API, and prints the answer.
//
// A command is a constructor (newXCmd), an options struct that its flags fill, and a function runX(ctx, options, app) error. No command
// exits the process or prints an error: Main does both, in one place (exit.go). Standard output carries what was asked for and nothing else;
// progress, notes and errors go to standard error.
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
	"golang.org/x/term"

	"banger/internal/api"
	"banger/internal/cli/session"
	"banger/internal/cli/ui"
	"banger/internal/paths"
	"banger/internal/step"
)

// Stdio is a program's standard streams. A stream that is an *os.File may be a terminal; others are not.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// app is what commands work with: the process's surroundings, so that no command reads a global.
type app struct {
	Stdio
	env   []string
	began time.Time // when the program began
}

// Main runs banger with the arguments after the program's name and returns its exit status. The environment is as from os.Environ.
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

// connect returns a client of the daemon, which it starts when nobody listens.
func (a *app) connect(ctx context.Context) (*api.Client, error) {
	layout, err := a.layout()
	if err != nil {
		return nil, err
	}
	return api.Connect(ctx, layout, true)
}

// terminal returns the file behind a stream when that is a terminal, else nil.
func terminal(stream any) *os.File {
	if f, ok := stream.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}

// width is the number of columns of a stream's terminal, 0 when it is none.
func width(stream any) int {
	f := terminal(stream)
	if f == nil {
		return 0
	}
	if cols, _, err := term.GetSize(int(f.Fd())); err == nil && cols > 0 {
		return cols
	}
	return 80 // a terminal that does not know, such as a serial line
}

// style is how to paint on a stream: not at all unless it is a terminal, nor when NO_COLOR is set (no-color.org).
func (a *app) style(stream any) ui.Style {
	return ui.Style{On: terminal(stream) != nil && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb"}
}

// progress returns a view of a long operation on standard error. The caller closes it before anything else is printed.
func (a *app) progress(title string) *ui.Progress {
	cols := func() int { return width(a.Err) }
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

// interruptible makes a command's RunE of a function whose context ends at the first Ctrl-C or its like; the second one ends the process,
// as by default. Commands with a session have signals of their own.
func interruptible(run func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		context.AfterFunc(ctx, stop)
		return run(ctx, args)
	}
}

// withSignals runs a session with the process's signals. SIGTTIN is ignored, so that a job in the background, which may not read from the
// terminal, has an empty standard input instead of being stopped.
func withSignals(run func(<-chan os.Signal) (int, error)) (int, error) {
	signal.Ignore(syscall.SIGTTIN)
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, session.Signals()...)
	defer signal.Stop(signals)
	return run(signals)
}
