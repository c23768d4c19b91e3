package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banger/internal/api"
	"banger/internal/cli/session"
	"banger/internal/cli/ui"
	"banger/internal/fault"
)

// exitBanger is the exit status of commands that run a program in a guest if banger itself fails,
// as with docker and podman.
const exitBanger = 125

// status is an error that has been reported already. Only the exit status is left.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// runsGuest is the annotation of a command that exits with a guest command's status.
const runsGuest = "runs-guest"

// several holds the errors of one command on several items. Each is printed with its hint. The
// first one decides the exit status.
type several []error

func (s several) Error() string   { return errors.Join(s...).Error() }
func (s several) Unwrap() []error { return s }

// exit prints a command's error and returns the program's exit status.
func (a *app) exit(cmd *cobra.Command, args []string, err error) int {
	var done status
	switch {
	case err == nil:
		return 0
	case errors.As(err, &done):
		return int(done)
	}
	var all several
	if !errors.As(err, &all) {
		all = several{err}
	}
	for _, err := range all {
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
	case cmd != nil && cmd.Annotations[runsGuest] != "":
		return exitBanger
	}
	return kind.ExitCode()
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
func (a *app) printError(err error) {
	style := a.style(a.Err)
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
		a.hint(hint)
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

func (a *app) hint(text string) {
	fmt.Fprintf(a.Err, "%s %s\n", a.style(a.Err).Yellow(" hint:"), ui.CleanLines(text, "       "))
}

// note writes a remark for a person, which no program needs to read.
func (a *app) note(format string, args ...any) {
	fmt.Fprintln(a.Err, ui.Clean(fmt.Sprintf(format, args...)))
}

// example is the annotation of a flag that holds a valid value, for hints.
const example = "example"

// setExample gives a flag an example of its value.
func setExample(flags *pflag.FlagSet, name, value string) {
	flags.SetAnnotation(name, example, []string{value}) // fails only for an unknown flag
}

// flagError returns an error that names the flag and hints at a valid use.
func flagError(cmd *cobra.Command, err error) error {
	var (
		bad     *pflag.InvalidValueError
		missing *pflag.ValueRequiredError
		unknown *pflag.NotExistError
	)
	switch {
	case errors.As(err, &bad):
		why := bad.Unwrap()
		if words, ok := wrongValue[bad.GetFlag().Value.Type()]; ok {
			why = fmt.Errorf("%q %s", bad.GetValue(), words)
		}
		return fault.New(fault.Invalid, "--%s: %w", bad.GetFlag().Name, why).
			WithHint("%s", flagHint(cmd, bad.GetFlag()))
	case errors.As(err, &missing):
		return fault.New(fault.Invalid, "--%s needs a value", missing.GetFlag().Name).
			WithHint("%s", flagHint(cmd, missing.GetFlag()))
	case errors.As(err, &unknown):
		name := unknown.GetSpecifiedName()
		flag := "-" + name
		if unknown.GetSpecifiedShortnames() == "" {
			flag = "--" + name
		}
		return fault.New(fault.Invalid, "%s does not know the flag %s", cmd.CommandPath(), flag).
			WithHint("%s", unknownFlagHint(cmd, name))
	}
	return fault.New(fault.Invalid, "%w", err).WithHint("See `%s --help`.", cmd.CommandPath())
}

// wrongValue describes a wrong value of one of pflag's own types, in better words than Go's.
var wrongValue = map[string]string{
	"bool":     "is neither true nor false",
	"duration": "is not a time with a unit",
	"int":      "is not a whole number",
}

func flagHint(cmd *cobra.Command, flag *pflag.Flag) string {
	if values := flag.Annotations[example]; len(values) > 0 {
		return fmt.Sprintf("For example: --%s %s", flag.Name, values[0])
	}
	return fmt.Sprintf("See `%s --help`.", cmd.CommandPath())
}

func unknownFlagHint(cmd *cobra.Command, name string) string {
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := ui.Closest(name, names); near != "" {
		return fmt.Sprintf("Did you mean --%s?", near)
	}
	return fmt.Sprintf("See `%s --help`.", cmd.CommandPath())
}

// usage is the error of wrong arguments.
func usage(cmd *cobra.Command, format string, args ...any) error {
	return fault.New(fault.Invalid, format, args...).WithHint("Usage: %s", cmd.UseLine())
}

// wantArgs returns a check for one argument per name. If the last name ends in "...", more may
// follow.
func wantArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usage(cmd, "%s: %s is missing", cmd.CommandPath(), strings.TrimSuffix(names[len(args)], "..."))
		}
		many := len(names) > 0 && strings.HasSuffix(names[len(names)-1], "...")
		if len(args) > len(names) && !many {
			return usage(cmd, "%s: %q is one argument too many", cmd.CommandPath(), args[len(names)])
		}
		named := args // without the guest's command, which may have empty arguments
		if cmd.Annotations[runsGuest] != "" {
			named = args[:min(len(args), len(names))]
		}
		if i := slices.Index(named, ""); i >= 0 { // most likely an unset variable
			return usage(cmd, "%s: %s is empty", cmd.CommandPath(), strings.TrimSuffix(names[min(i, len(names)-1)], "..."))
		}
		return nil
	}
}
