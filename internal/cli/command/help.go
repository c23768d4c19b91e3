package command

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger/internal/cli/ui"
)

// Widths of help, in columns. Lines longer than maxHelp are hard to read.
const (
	plainHelp = 80 // if the output is not a terminal
	maxHelp   = 100

	nameColumn = 11 // as long as the longest command's name
)

// PrintHelp writes a command's help. It uses no template of cobra's, because text/template keeps
// the linker from removing unused code.
func PrintHelp(a *App, cmd *cobra.Command, top []Group) {
	if cmd.IsAdditionalHelpTopicCommand() {
		fmt.Fprintln(a.Out, cmd.Long)
		return
	}
	columns := ui.Columns(a.Out)
	if columns == 0 {
		columns = plainHelp
	}
	columns = min(columns, maxHelp)
	h := helpText{style: a.Style(a.Out)}
	h.b.WriteString(ui.Wrap(cmd.Short, columns) + "\n")
	if cmd.Long != "" {
		h.b.WriteString("\n" + ui.Wrap(cmd.Long, columns) + "\n")
	}
	h.section("Usage", usageLine(cmd))
	if len(cmd.Aliases) > 0 {
		h.section("Aliases", strings.Join(cmd.Aliases, ", "))
	}
	h.section("Examples", cmd.Example)
	if cmd.HasParent() {
		h.section("Commands", commandList(cmd.Commands()))
	} else {
		for _, g := range top {
			h.section(g.Title, commandList(g.Commands))
		}
	}
	h.section("Flags", flagUsages(cmd, columns))
	h.section("Exit status", ui.Wrap(ExitStatus(cmd), columns-2))
	if !cmd.HasParent() {
		h.section("More help", "banger COMMAND --help, banger help exit-codes, banger help environment")
	}
	fmt.Fprint(a.Out, h.b.String())
}

// commandList returns a line for each command that is not hidden.
func commandList(commands []*cobra.Command) string {
	var b strings.Builder
	for _, c := range commands {
		if c.IsAvailableCommand() {
			fmt.Fprintf(&b, "%-*s  %s\n", nameColumn, c.Name(), c.Short)
		}
	}
	return b.String()
}

// ExitStatus returns the section on exit status in a command's help. It is empty for a command that
// uses the common statuses.
func ExitStatus(cmd *cobra.Command) string {
	switch {
	case !cmd.HasParent():
		return "A command that runs a program in a guest exits with the program's status, or with 125 if banger itself fails. " +
			"For all other statuses, see: banger help exit-codes"
	case cmd.Annotations[RunsGuest] == "ssh":
		return "The status of ssh, or 125 if banger fails before it runs ssh. See: banger help exit-codes"
	case cmd.Annotations[RunsGuest] != "":
		return "The status of the command, or 128+n if signal n ended it. 125 if banger fails before the command runs, " +
			"124 if --timeout ends the command, 130 if you interrupt it. See: banger help exit-codes"
	}
	return ""
}

type helpText struct {
	b     strings.Builder
	style ui.Style
}

// section writes a titled block, unless it is empty.
func (h *helpText) section(title, body string) {
	body = strings.Trim(body, "\n")
	if body == "" {
		return
	}
	h.b.WriteString("\n" + h.style.Bold(title) + "\n")
	for line := range strings.SplitSeq(body, "\n") {
		h.b.WriteString("  " + line + "\n")
	}
}

func usageLine(cmd *cobra.Command) string {
	if cmd.HasAvailableSubCommands() {
		return cmd.CommandPath() + " COMMAND"
	}
	return cmd.UseLine()
}

// flagUsages lists the flags without --help, which the reader has just used.
func flagUsages(cmd *cobra.Command, columns int) string {
	cmd.InitDefaultHelpFlag()
	if help := cmd.Flags().Lookup("help"); help != nil {
		help.Hidden = true
	}
	usages := cmd.LocalFlags().FlagUsagesWrapped(columns - 2)
	return dedent(usages)
}

// dedent removes the spaces with which all lines begin.
func dedent(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	least := len(text)
	for _, line := range lines {
		if trimmed := strings.TrimLeft(line, " "); trimmed != "" {
			least = min(least, len(line)-len(trimmed))
		}
	}
	for i, line := range lines {
		lines[i] = line[min(least, len(line)):]
	}
	return strings.Join(lines, "\n")
}
