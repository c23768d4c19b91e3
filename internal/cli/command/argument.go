package command

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"banger/internal/fault"
)

// Usage is the error of wrong arguments.
func Usage(cmd *cobra.Command, format string, args ...any) error {
	return fault.New(fault.Invalid, format, args...).WithHint("Usage: %s", cmd.UseLine())
}

// WantArgs returns a check for one argument per name. If the last name ends in "...", more may
// follow.
func WantArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return Usage(cmd, "%s: %s is missing", cmd.CommandPath(), strings.TrimSuffix(names[len(args)], "..."))
		}
		many := len(names) > 0 && strings.HasSuffix(names[len(names)-1], "...")
		if len(args) > len(names) && !many {
			return Usage(cmd, "%s: %q is one argument too many", cmd.CommandPath(), args[len(names)])
		}
		named := args // without the guest's command, which may have empty arguments
		if cmd.Annotations[RunsGuest] != "" {
			named = args[:min(len(args), len(names))]
		}
		if i := slices.Index(named, ""); i >= 0 { // most likely an unset variable
			return Usage(cmd, "%s: %s is empty", cmd.CommandPath(), strings.TrimSuffix(names[min(i, len(names)-1)], "..."))
		}
		return nil
	}
}
