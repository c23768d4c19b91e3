package ui

import (
	"os"

	"golang.org/x/term"
)

// Terminal returns the file behind a stream if that is a terminal, otherwise nil.
func Terminal(stream any) *os.File {
	if f := file(stream); f != nil && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}

// Columns returns the number of columns of a stream's terminal, or 0 if the stream is no terminal.
func Columns(stream any) int {
	f := Terminal(stream)
	if f == nil {
		return 0
	}
	if cols, _, err := term.GetSize(int(f.Fd())); err == nil && cols > 0 {
		return cols
	}
	return 80 // a terminal that does not know its width, such as a serial line
}
