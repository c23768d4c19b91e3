// Package ui writes to terminals: cleaned and fitted text, colours, tables, live progress,
// timelines.
//
// Much of the text comes from guests, images and registries. Such text passes Clean before it
// reaches a terminal, so that it can neither move the cursor nor forge lines. Table, Progress and
// Timeline call Clean themselves. The output of a guest's command does not pass through this
// package.
//
// A width of 0 means that the output is no terminal: nothing is cut, coloured or redrawn.
package ui

import "strings"

// Style paints text. The zero value paints nothing, which is right for files and pipes.
type Style struct{ On bool }

// Select Graphic Rendition parameters (ECMA-48, 8.3.117): only the eight colours that the themes of
// all terminals define.
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	blue   = "34"
	cyan   = "36"
)

func (s Style) paint(code, text string) string {
	if !s.On || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Bold and the methods after it return painted text, or the text unchanged if the style is off.
func (s Style) Bold(text string) string { return s.paint(bold, text) }

func (s Style) Dim(text string) string    { return s.paint(dim, text) }
func (s Style) Red(text string) string    { return s.paint(red, text) }
func (s Style) Green(text string) string  { return s.paint(green, text) }
func (s Style) Yellow(text string) string { return s.paint(yellow, text) }
func (s Style) Blue(text string) string   { return s.paint(blue, text) }
func (s Style) Cyan(text string) string   { return s.paint(cyan, text) }

// pad fills text with spaces to width columns; on the left if right is set.
func pad(text string, width int, right bool) string {
	space := strings.Repeat(" ", max(0, width-Width(text)))
	if right {
		return space + text
	}
	return text + space
}
