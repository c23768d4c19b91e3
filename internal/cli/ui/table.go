package ui

import (
	"io"
	"strings"
)

// Column is one column of a table.
type Column struct {
	Title string
	Min   int                               // the least width to cut it to; 0: never cut
	Drop  int                               // the highest is removed first; 0: never removed
	Right bool                              // for numbers
	Paint func(s Style, cell string) string // nil: plain
}

// Table lays rows out in columns.
type Table struct {
	Columns []Column
	Rows    [][]string // each as long as Columns
}

const gap = "  "

// Write writes a line of titles and the rows, fitted to width columns of a terminal.
func (t Table) Write(w io.Writer, width int, style Style) error {
	for i, row := range t.Rows {
		cells := make([]string, len(row))
		for j, cell := range row {
			cells[j] = Clean(cell)
		}
		t.Rows[i] = cells
	}
	widths := t.widths(width)
	var b strings.Builder
	t.line(&b, widths, func(i int) string { return t.Columns[i].Title }, func(_ int, s string) string { return style.Dim(s) })
	for _, row := range t.Rows {
		t.line(&b, widths, func(i int) string { return row[i] }, func(i int, s string) string {
			if paint := t.Columns[i].Paint; paint != nil {
				return paint(style, s)
			}
			return s
		})
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// line writes one line. The last column is not padded, so no line ends in spaces.
func (t Table) line(b *strings.Builder, widths []int, cell func(int) string, paint func(int, string) string) {
	last := len(widths) - 1
	for last > 0 && widths[last] == 0 {
		last--
	}
	var line strings.Builder
	for i, width := range widths {
		if width == 0 {
			continue
		}
		if line.Len() > 0 {
			line.WriteString(gap)
		}
		text := Fit(cell(i), width)
		padding := strings.Repeat(" ", width-Width(text))
		switch {
		case t.Columns[i].Right:
			line.WriteString(padding + paint(i, text))
		case i == last:
			line.WriteString(paint(i, text))
		default:
			line.WriteString(paint(i, text) + padding)
		}
	}
	b.WriteString(strings.TrimRight(line.String(), " "))
	b.WriteByte('\n')
}

// widths returns the width of each column; 0 means that it is left out. The widest columns are cut
// first, down to their minimum. If that is not enough, the least important column is left out and
// the others get their width back.
func (t Table) widths(total int) []int {
	widths := make([]int, len(t.Columns))
	for i, c := range t.Columns {
		widths[i] = Width(c.Title)
		for _, row := range t.Rows {
			widths[i] = max(widths[i], Width(row[i]))
		}
	}
	if total <= 0 {
		return widths
	}
	for {
		fitted, over := t.cut(widths, total)
		if over <= 0 {
			return fitted
		}
		drop := -1
		for i, c := range t.Columns {
			if widths[i] > 0 && c.Drop > 0 && (drop < 0 || c.Drop > t.Columns[drop].Drop) {
				drop = i
			}
		}
		if drop < 0 {
			return fitted // wider than the terminal, which wraps it
		}
		widths[drop] = 0
	}
}

// cut narrows the widest columns until the line fits. over is what is still too much.
func (t Table) cut(natural []int, total int) (widths []int, over int) {
	widths = append(widths, natural...)
	over = -len(gap) - total
	for _, w := range widths {
		if w > 0 {
			over += w + len(gap)
		}
	}
	for over > 0 {
		widest := -1
		for i, c := range t.Columns {
			if c.Min > 0 && widths[i] > c.Min && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
		over--
	}
	return widths, over
}

// Pairs writes a line for each name and value, as `show` does. If the value is "", there is no
// line. Line breaks in values are kept and indented.
func Pairs(w io.Writer, style Style, pairs [][2]string) error {
	width := 0
	for _, p := range pairs {
		if p[1] != "" {
			width = max(width, Width(p[0]))
		}
	}
	var b strings.Builder
	for _, p := range pairs {
		if p[1] != "" {
			b.WriteString(style.Dim(pad(p[0], width, false)) + gap + p[1] + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
