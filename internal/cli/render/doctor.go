package render

import (
	"cmp"
	"fmt"
	"strings"

	"banger/internal/cli/ui"
	"banger/internal/doctor"
)

// maxText is the number of columns past which text is hard to read.
const maxText = 100

// Checks returns a line for each check, with the details and the solution below those that did
// not pass. columns is 0 if the output is no terminal.
func Checks(checks []doctor.Check, columns int, style ui.Style) string {
	columns = min(cmp.Or(columns, maxText), maxText)
	marks := map[doctor.Status]string{
		doctor.Pass: style.Green("✓"), doctor.Warn: style.Yellow("!"), doctor.Fail: style.Red("✗"),
	}
	names := 0
	counts := map[doctor.Status]int{}
	for _, c := range checks {
		names = max(names, len(c.Name))
		counts[c.Status]++
	}
	indent := strings.Repeat(" ", names+4)
	var b strings.Builder
	for _, c := range checks {
		name := style.Bold(fmt.Sprintf("%-*s", names, c.Name))
		fmt.Fprintf(&b, "%s %s  %s\n", marks[c.Status], name, indented(ui.Clean(c.Summary), columns, indent))
		if c.Status == doctor.Pass {
			continue
		}
		if c.Detail != "" {
			detail := indented(ui.CleanLines(c.Detail, ""), columns, indent)
			fmt.Fprintf(&b, "%s%s\n", indent, style.Dim(detail))
		}
		if c.Fix != "" {
			fmt.Fprintf(&b, "%s%s %s\n", indent, style.Yellow("→"), indented(ui.Clean(c.Fix), columns-2, indent+"  "))
		}
	}
	fmt.Fprintf(&b, "\n%d passed, %d warnings, %d failed\n", counts[doctor.Pass], counts[doctor.Warn], counts[doctor.Fail])
	return b.String()
}

// indented wraps a text to columns, with indent before all lines but the first.
func indented(text string, columns int, indent string) string {
	return strings.ReplaceAll(ui.Wrap(text, max(20, columns-len(indent))), "\n", "\n"+indent)
}
