package ui

import (
	"strings"
)

// Wrap breaks the lines of a text at columns. Lines that begin with a space stay as they are.
func Wrap(text string, columns int) string {
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
