package ui

import (
	"cmp"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Filter is a writer for a terminal that passes a guest's text and a few of its colours only. It
// removes all other control sequences. No line can hide: no background has a colour, invisible
// characters are removed, and a carriage return does not lead back over the line.
type Filter struct {
	w      io.Writer
	state  filterState
	params []byte // of the control sequence that is being read
	rest   []byte // the start of an incomplete character
	out    []byte
	cr     bool // a carriage return waits for the character after it
	styled bool // a style other than the terminal's own may be set
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

// Close ends the style that the text left behind. It does not close the writer below.
func (f *Filter) Close() error {
	f.out = f.out[:0]
	if f.cr {
		f.cr = false
		f.out = append(f.out, '\n')
	}
	if f.styled {
		f.styled = false
		f.out = append(f.out, "\x1b[m"...)
	}
	_, err := f.w.Write(f.out)
	return err
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
		f.style()
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

// style passes on the styles in a control sequence that show text.
func (f *Filter) style() {
	given := strings.Split(string(f.params), ";")
	var kept []string
	for i := 0; i < len(given); i++ {
		if shows(given[i]) {
			kept = append(kept, given[i])
		}
		i += colourArgs(given[i:])
	}
	if len(kept) == 0 {
		return
	}
	f.styled = true
	f.out = append(append(append(f.out, "\x1b["...), strings.Join(kept, ";")...), 'm')
}

// colourArgs returns how many of the parameters after the first one belong to it: 38;5;N and
// 38;2;R;G;B set a colour (ITU-T T.416, 13.1.8).
func colourArgs(params []string) int {
	if len(params) < 2 || !slices.Contains([]string{"38", "48", "58"}, strings.TrimLeft(params[0], "0")) {
		return 0
	}
	return map[string]int{"5": 2, "2": 4}[strings.TrimLeft(params[1], "0")]
}

// shows reports whether a style shows text on a dark and on a light terminal: a reset, bold,
// underlined, and the colours between black and white. Backgrounds, exact colours, reverse, faint
// and concealed text are none of these (ECMA-48, 8.3.117).
func shows(param string) bool {
	n, err := strconv.Atoi(cmp.Or(param, "0"))
	switch {
	case err != nil:
		return false
	case n == 0, n == 1, n == 4, n == 22, n == 24, n == 39:
		return true
	}
	return n >= 31 && n <= 36 || n >= 91 && n <= 96
}

func (f *Filter) text(r rune, raw []byte) {
	if r == '\r' {
		f.cr = true
		return
	}
	if f.cr { // on its own it would let new text replace the line
		f.cr = false
		if r != '\n' {
			f.out = append(f.out, '\n')
		} else {
			f.out = append(f.out, '\r')
		}
	}
	switch {
	case r == 0x1b:
		f.state = inEscape
	case r == '\n', r == '\t':
		f.out = append(f.out, raw...)
	case r == utf8.RuneError && len(raw) == 1:
		f.out = append(f.out, "\uFFFD"...)
	case deceptive(r):
	default:
		f.out = append(f.out, raw...)
	}
}
