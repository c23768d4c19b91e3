package ui

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// Redraw overwrites the last text on a terminal. Elsewhere it writes one text below the other. Use
// it from one goroutine only.
type Redraw struct {
	w     io.Writer
	live  bool
	lines int
}

// NewRedraw returns a Redraw for an output. Without again, it never overwrites anything.
func NewRedraw(w io.Writer, again bool) *Redraw {
	return &Redraw{w: w, live: again && Terminal(w) != nil}
}

// Show writes a text, which ends with a newline, in the place of the last one.
func (r *Redraw) Show(text []byte) error {
	var b strings.Builder
	if r.live && r.lines > 0 {
		fmt.Fprintf(&b, "\r\x1b[%dA\x1b[J", r.lines)
	}
	b.Write(text)
	r.lines = bytes.Count(text, []byte("\n"))
	_, err := io.WriteString(r.w, b.String())
	return err
}
