package command

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"banger/internal/cli/ui"
	"banger/internal/fault"
)

// Group holds commands that the top help lists under one title.
type Group struct {
	Title    string
	Commands []*cobra.Command
}

// PlaceFlags puts [flags] before the arguments in the usage line of each command that has flags.
// cobra would put it after them.
func PlaceFlags(cmd *cobra.Command) {
	cmd.DisableFlagsInUseLine = true
	if !cmd.HasSubCommands() && cmd.HasAvailableFlags() {
		name, args, _ := strings.Cut(cmd.Use, " ")
		cmd.Use = strings.TrimSuffix(name+" [flags] "+args, " ")
	}
	for _, c := range cmd.Commands() {
		PlaceFlags(c)
	}
}

// NewHelp replaces cobra's help command, which ignores words that are no command.
func NewHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND...]",
		Short: "Show the help of a command or topic",
		RunE: func(_ *cobra.Command, words []string) error {
			cmd := root
			for i, word := range words {
				next, _, err := cmd.Find([]string{word})
				if err != nil || next == cmd {
					return unknownCommand(cmd, words[i])
				}
				cmd = next
			}
			return cmd.Help()
		},
		ValidArgsFunction: func(_ *cobra.Command, words []string, _ string) ([]string, cobra.ShellCompDirective) {
			cmd := root
			if len(words) > 0 {
				cmd, _, _ = root.Find(words)
			}
			var names []string
			for _, c := range cmd.Commands() {
				if c.IsAvailableCommand() || c.IsAdditionalHelpTopicCommand() {
					names = append(names, c.Name()+"\t"+c.Short)
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// NewGroup returns a command that only holds others. Without arguments it prints its help. A
// word that is no command is an error, with the nearest command as a hint.
func NewGroup(use, short, long string) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Long:  long,
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		},
	}
}

func unknownCommand(cmd *cobra.Command, word string) error {
	err := fault.New(fault.Invalid, "%s has no command %q", cmd.CommandPath(), word)
	if near := nearestCommand(cmd, word); near != "" && !deletes(cmd.Root(), near) {
		return err.WithHint("Did you mean `%s`?", near)
	}
	return err.WithHint("See `%s --help`.", cmd.CommandPath())
}

// deletes reports whether the command with a path deletes or ends something. A guess never proposes
// such a command, because a script or a person in a hurry may run it.
func deletes(root *cobra.Command, path string) bool {
	cmd, _, err := root.Find(strings.Fields(path)[1:])
	return err != nil || slices.ContainsFunc([]string{"delete", "rm", "prune", "kill"}, func(name string) bool {
		return cmd.Name() == name || cmd.HasAlias(name)
	})
}

// nearestCommand returns the path of the command below cmd that word most likely means, or "". At
// the top, that may be a command on VMs.
func nearestCommand(cmd *cobra.Command, word string) string {
	var names []string
	for _, c := range cmd.Commands() {
		if !c.IsAvailableCommand() {
			continue
		}
		if slices.Contains(c.SuggestFor, word) {
			return c.CommandPath()
		}
		names = append(append(names, c.Name()), c.Aliases...)
	}
	if !cmd.HasParent() {
		if vm, _, err := cmd.Find([]string{"vm", word}); err == nil && vm.Parent() != cmd {
			return vm.CommandPath()
		}
	}
	if near := ui.Closest(word, names); near != "" {
		return cmd.CommandPath() + " " + near
	}
	return ""
}
