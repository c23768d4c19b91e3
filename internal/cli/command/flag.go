package command

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banger/internal/cli/ui"
	"banger/internal/fault"
)

// AddJSON adds the flag of all commands that print a result.
func AddJSON(cmd *cobra.Command, target *bool) {
	cmd.Flags().BoolVar(target, "json", false, "print the result as JSON, as the API defines it; errors too")
}

// example is the annotation of a flag that holds a valid value, for hints.
const example = "example"

// SetExample gives a flag an example of its value.
func SetExample(flags *pflag.FlagSet, name, value string) {
	flags.SetAnnotation(name, example, []string{value}) // fails only for an unknown flag
}

// FlagError returns an error that names the flag and hints at a valid use.
func FlagError(cmd *cobra.Command, err error) error {
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
