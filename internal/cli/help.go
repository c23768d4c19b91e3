package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger/internal/cli/ui"
)

// plainHelp is the width of help that does not go to a terminal, and the most on one that does: longer lines are hard to read.
const (
	plainHelp = 80
	maxHelp   = 100

	nameColumn = 11 // as long as the longest command's name
)

// printHelp writes a command's help. It is not one of cobra's templates, because text/template keeps the linker from dropping unused code.
func printHelp(a *app, cmd *cobra.Command, top []Group) {
	if cmd.IsAdditionalHelpTopicCommand() {
		fmt.Fprintln(a.Out, cmd.Long)
		return
	}
	columns := width(a.Out)
	if columns == 0 {
		columns = plainHelp
	}
	columns = min(columns, maxHelp)
	h := helpText{style: a.style(a.Out)}
	h.b.WriteString(wrap(cmd.Short, columns) + "\n")
	if cmd.Long != "" {
		h.b.WriteString("\n" + wrap(cmd.Long, columns) + "\n")
	}
	h.section("Usage", usageLine(cmd))
	if len(cmd.Aliases) > 0 {
		h.section("Other names", strings.Join(cmd.Aliases, ", "))
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
	h.section("Exit status", wrap(ExitStatus(cmd), columns-2))
	if !cmd.HasParent() {
		h.section("More help", "banger COMMAND --help, banger help exit-codes, banger help environment")
	}
	fmt.Fprint(a.Out, h.b.String())
}

// commandList is a line for each command that is not hidden.
func commandList(commands []*cobra.Command) string {
	var b strings.Builder
	for _, c := range commands {
		if c.IsAvailableCommand() {
			fmt.Fprintf(&b, "%-*s  %s\n", nameColumn, c.Name(), c.Short)
		}
	}
	return b.String()
}

// ExitStatus is what a command's help says of its exit status: of the commands with the usual ones, nothing.
func ExitStatus(cmd *cobra.Command) string {
	switch {
	case !cmd.HasParent():
		return "Commands that run something in a guest exit with its status, or with 125 when banger itself failed. Others: banger help exit-codes"
	case cmd.Annotations[runsGuest] == "ssh":
		return "ssh's own; 125 when banger failed before it could run ssh. See banger help exit-codes."
	case cmd.Annotations[runsGuest] != "":
		return "The command's own, 128+n when signal n ended it; 125 when banger failed before it could run, 124 when --timeout was over, 130 when interrupted. See banger help exit-codes."
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

// flagUsages lists the flags, and leaves out --help, which everybody knows who reads this.
func flagUsages(cmd *cobra.Command, columns int) string {
	cmd.InitDefaultHelpFlag()
	if help := cmd.Flags().Lookup("help"); help != nil {
		help.Hidden = true
	}
	usages := cmd.LocalFlags().FlagUsagesWrapped(columns - 2)
	return dedent(usages)
}

// dedent takes away the spaces that all lines begin with.
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

// wrap breaks the lines of a text at columns. Lines that begin with a space are laid out already and stay as they are.
func wrap(text string, columns int) string {
	var out []string
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, " ") || len(line) <= columns {
			out = append(out, line)
			continue
		}
		var row string
		for _, word := range strings.Fields(line) {
			if row != "" && len(row)+1+len(word) > columns {
				out = append(out, row)
				row = ""
			}
			row = strings.TrimPrefix(row+" "+word, " ")
		}
		out = append(out, row)
	}
	return strings.Join(out, "\n")
}
