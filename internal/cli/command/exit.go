package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/session"
	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/limit"
)

// ExitFailed is the exit status of commands that run a program in a guest if banger itself fails,
// as with docker and podman.
const ExitFailed = 125

// Status is an error that has been reported already. Only the exit status is left.
type Status int

func (s Status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// RunsGuest is the annotation of a command that exits with a guest command's status.
const RunsGuest = "runs-guest"

// Several holds the errors of one command on several items. Each is printed with its hint. The
// first one decides the exit status.
type Several []error

func (s Several) Error() string { return errors.Join(s...).Error() }

func (s Several) Unwrap() []error { return s }

// Exit prints a command's error and returns the program's exit status.
func (a *App) Exit(cmd *cobra.Command, args []string, err error) int {
	var done Status
	switch err = a.answered(err); {
	case err == nil:
		return 0
	case errors.As(err, &done):
		return int(done)
	}
	var all Several
	if !errors.As(err, &all) {
		all = Several{err}
	}
	for i, err := range all {
		err = unwritten(err)
		all[i] = err
		if wantsJSON(args) {
			ui.JSON(a.Err, api.ProblemOf(err))
		} else {
			a.printError(err)
		}
	}
	kind := fault.KindOf(all[0])
	switch {
	case kind == fault.Canceled:
		return session.ExitInterrupted
	case cmd != nil && cmd.Annotations[RunsGuest] != "":
		return ExitFailed
	}
	return kind.ExitCode()
}

// answered returns a command's error, and the failure to write its answer. A guest command's exit
// status stays.
func (a *App) answered(err error) error {
	out, ok := a.Out.(*ui.Output)
	if !ok || out.Failed() == nil {
		return err
	}
	failed := fault.New(fault.Unavailable, "writing the answer to standard output: %w", out.Failed())
	var all Several
	switch {
	case errors.Is(err, api.ErrOutput): // it says more
		return err
	case errors.Is(err, out.Failed()):
		return failed
	case err != nil && !errors.As(err, &all):
		return err
	}
	if lost := strings.TrimSpace(out.Lost()); lost != "" { // it may be the name of a new VM
		_ = failed.WithHint("The command has done its work. Its answer was:\n%s", lost)
	}
	if all != nil {
		return append(all, failed)
	}
	return failed
}

// unwritten gives an error of a file that this process writes its kind and its hint. The hint of
// package fault is about banger's own files, and errors of the daemon have it already.
func unwritten(err error) error {
	hint := ""
	switch {
	case fault.Given(err) != "":
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		hint = "Free some space there, or write to another place."
	case errors.Is(err, syscall.EFBIG):
		hint = limit.TooLargeHere()
	default:
		return err
	}
	return fault.New(fault.KindOf(err), "%w", err).WithHint("%s", hint)
}

// wantsJSON reports whether --json is set. It reads the arguments, because an error may come before
// they are parsed.
func wantsJSON(args []string) bool {
	if i := slices.Index(args, "--"); i >= 0 {
		args = args[:i]
	}
	return slices.Contains(args, "--json") || slices.Contains(args, "--json=true")
}

// printError writes an error for a person. It cleans and indents the lines, because parts of them
// may come from a guest or a registry.
func (a *App) printError(err error) {
	style := a.Style(a.Err)
	message := err.Error()
	if errors.Is(err, context.Canceled) && fault.KindOf(err) == fault.Canceled {
		message = "interrupted"
	}
	fmt.Fprintf(a.Err, "%s %s\n", style.Red("error:"), ui.CleanLines(message, "       "))
	var failed *api.Error
	if errors.As(err, &failed) && exists(failed.Problem.Log) {
		fmt.Fprintf(a.Err, "%s %s\n", style.Dim("  log:"), ui.Clean(failed.Problem.Log))
	}
	if failed != nil && failed.Problem.RequestID != "" && fault.KindOf(err) == fault.Internal {
		fmt.Fprintf(a.Err, "%s %s\n", style.Dim("request:"), ui.Clean(failed.Problem.RequestID))
	}
	if hint := fault.HintOf(err); hint != "" {
		a.Hint(hint)
	}
}

// exists reports whether a log still exists. A log is deleted with its VM.
func exists(path string) bool {
	if path == "" {
		return false
	}
	_, err := os.Stat(path)
	return err == nil
}
