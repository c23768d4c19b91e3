package ui

import (
	"io"
	"unicode/utf8"
)

// Filter is a writer for a terminal that passes text and its colours only. It removes all other
// control sequences: for the cursor, the title, the clipboard, and answers that would look as if
// they were typed. It is for text that a guest wrote.
type Filter struct {
	w      io.Writer
	state  filterState
	params []byte // of the control sequence that is being read
	rest   []byte // the start of an incomplete character
	out    []byte
}

type filterState int

const (
	inText   filterState = iota
	inEscape             // after ESC
	inCSI                // after ESC [
	inString             // after ESC ] and similar, until BEL or ESC \
	inStringEscape
)

// maxParams bounds a control sequence. Longer sequences set no colour.
const maxParams = 32

// NewFilter returns a Filter on w.
func NewFilter(w io.Writer) *Filter { return &Filter{w: w} }

// Write takes p in full unless w fails.
func (f *Filter) Write(p []byte) (int, error) {
	f.out = f.out[:0]
	text := append(f.rest, p...)
	for len(text) > 0 {
		if !utf8.FullRune(text) {
			break
		}
		r, n := utf8.DecodeRune(text)
		f.take(r, text[:n])
		text = text[n:]
	}
	f.rest = append(f.rest[:0:0], text...)
	if _, err := f.w.Write(f.out); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *Filter) take(r rune, raw []byte) {
	switch f.state {
	case inText:
		f.text(r, raw)
	case inEscape:
		switch r {
		case '[':
			f.state, f.params = inCSI, f.params[:0]
		case ']', 'P', 'X', '^', '_': // OSC, DCS, SOS, PM, APC (ECMA-48, 5.6)
			f.state = inString
		default:
			f.state = inText
		}
	case inCSI:
		f.csi(r)
	case inString:
		switch r {
		case '\a', 0x18, 0x1a:
			f.state = inText
		case 0x1b:
			f.state = inStringEscape
		case '\n': // an unfinished string must not hide the rest of the log
			f.state = inText
			f.text(r, raw)
		}
	case inStringEscape:
		f.state = inText
	}
}

// csi takes a character of a control sequence. Only a sequence that sets colours is passed on.
func (f *Filter) csi(r rune) {
	switch {
	case r == 'm' && len(f.params) <= maxParams:
		f.out = append(append(append(f.out, "\x1b["...), f.params...), 'm')
		f.state = inText
	case r >= 0x40 && r <= 0x7e:
		f.state = inText
	case (r >= '0' && r <= '9' || r == ';' || r == ':') && len(f.params) <= maxParams:
		f.params = append(f.params, byte(r))
	case r >= 0x20 && r <= 0x3f:
		f.params = append(f.params[:0], make([]byte, maxParams+1)...) // not a colour
	default:
		f.state = inText
	}
}

func (f *Filter) text(r rune, raw []byte) {
	switch {
	case r == 0x1b:
		f.state = inEscape
	case r == '\n', r == '\t', r == '\r':
		f.out = append(f.out, raw...)
	case r == utf8.RuneError && len(raw) == 1:
		f.out = append(f.out, "\uFFFD"...)
	case r < ' ', r >= 0x7f && r < 0xa0, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
	default:
		f.out = append(f.out, raw...)
	}
}
