// Package command holds what all commands of banger are made from.
//
// App is the process as commands see it: streams, environment, configuration, client, notes and
// progress. The other files hold the conventions of commands: arguments (argument.go), flags
// (flag.go), completion (complete.go), help (help.go, group.go), signals (run.go), and how an error
// becomes output and an exit status (exit.go). The package knows no command.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/config"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/step"
)

// Stdio holds a program's standard streams. Only a stream that is an *os.File, or a ui.Output of
// one, can be a terminal.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// App holds what commands need of the process, so that no command reads a global.
type App struct {
	Stdio
	Env   []string  // in the form of os.Environ
	Began time.Time // when the program began
}

// LookupEnv is os.LookupEnv on the app's environment.
func (a *App) LookupEnv(key string) (string, bool) {
	for _, kv := range slices.Backward(a.Env) {
		if name, value, _ := strings.Cut(kv, "="); name == key {
			return value, true
		}
	}
	return "", false
}

// Getenv is os.Getenv on the app's environment.
func (a *App) Getenv(key string) string {
	value, _ := a.LookupEnv(key)
	return value
}

// Layout returns where banger's files are for this environment.
func (a *App) Layout() (paths.Layout, error) {
	return paths.FromEnv(a.Getenv, os.Getuid())
}

// Config loads the configuration from the file and the environment of this process, and returns it
// with the path of the file.
func (a *App) Config() (*config.Config, string, error) {
	layout, err := a.Layout()
	if err != nil {
		return nil, "", err
	}
	cfg, err := config.Load(layout.ConfigFile(), a.LookupEnv, nil)
	return cfg, layout.ConfigFile(), err
}

// Connect returns a client of the daemon. It starts the daemon if none runs.
func (a *App) Connect(ctx context.Context) (*api.Client, error) {
	layout, err := a.Layout()
	if err != nil {
		return nil, err
	}
	return a.listening(api.Connect(ctx, layout, true))
}

// Running returns a client of the running daemon. If none runs, the error is of kind
// fault.Unavailable.
func (a *App) Running(ctx context.Context) (*api.Client, error) {
	layout, err := a.Layout()
	if err != nil {
		return nil, err
	}
	return a.listening(api.Connect(ctx, layout, false))
}

// listening makes a client note that its daemon does not answer.
func (a *App) listening(client *api.Client, err error) (*api.Client, error) {
	if err == nil {
		client.OnSilence(func(pid int) {
			a.Note("bangerd (process %d) does not answer; waiting for it", pid)
		})
	}
	return client, err
}

// Absent reports whether an error of Running means that no daemon runs.
func Absent(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)
}

// Style returns the style for a stream. It paints only on a terminal, and not if NO_COLOR is set
// (no-color.org).
func (a *App) Style(stream any) ui.Style {
	return ui.Style{On: ui.Terminal(stream) != nil && a.Getenv("NO_COLOR") == "" && a.Getenv("TERM") != "dumb"}
}

// PrintTable writes a table to standard output.
func (a *App) PrintTable(t ui.Table) error {
	return t.Write(a.Out, ui.Columns(a.Out), a.Style(a.Out))
}

// Note writes a remark for a person, which no program needs to read.
func (a *App) Note(format string, args ...any) {
	fmt.Fprintln(a.Err, ui.Clean(fmt.Sprintf(format, args...)))
}

// NoteMade notes on a terminal how large the result of an operation is and how long it took.
func (a *App) NoteMade(size model.Bytes, took time.Duration) {
	if ui.Terminal(a.Err) != nil {
		a.Note("%s in %s", size, ui.Duration(took))
	}
}

// Notices writes what a person should know about an operation that has succeeded.
func (a *App) Notices(notices []model.Notice) {
	for _, n := range notices {
		a.Note("%s", n.Text)
		if n.Hint != "" {
			a.Hint(n.Hint)
		}
	}
}

// Hint writes to standard error what a person can do.
func (a *App) Hint(text string) {
	fmt.Fprintf(a.Err, "%s %s\n", a.Style(a.Err).Yellow(" hint:"), ui.CleanLines(text, "       "))
}

// Progress returns a view of a long operation on standard error. The caller closes it before it
// prints anything else.
func (a *App) Progress(title string) *ui.Progress {
	cols := func() int { return ui.Columns(a.Err) }
	if a.Getenv("TERM") == "dumb" {
		cols = func() int { return 0 }
	}
	return ui.NewProgress(a.Err, cols, a.Style(a.Err), title)
}

// Await calls do, which asks the daemon for what has no steps, and reports a wait that lasts.
func Await[T any](ctx context.Context, a *App, title, what string, do func() (T, error)) (T, error) {
	p := a.Progress(title)
	defer p.Close()
	defer step.Waiting(step.WithWaits(ctx, p.Report), what, 0)()
	return do()
}

// WithProgress runs a long operation under a progress view.
func (a *App) WithProgress(title string, run func(step.Reporter) error) error {
	p := a.Progress(title)
	defer p.Close()
	return run(p.Report)
}
