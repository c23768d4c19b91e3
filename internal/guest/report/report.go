// Package report makes text and errors of the host from what a guest says of itself.
//
// The guest is hostile, and people and programs read what it says: in an error, a record, a log or
// a table. So every error that a guest reports and every text that it chooses passes through this
// package. The package knows nothing of where the words came from.
//
// # Invariants
//
//   - A text is one line of visible characters with a bounded length. It cannot control a terminal,
//     begin a line of its own, or hide or reorder other characters.
//   - An error that a guest reports begins with Prefix, so it never reads as banger's own.
//   - Its kind is one of a closed list. A guest cannot report that banger has failed, that banger's
//     files are damaged, or that the user gave up.
//   - It wraps no other error. So it has no hint of the guest's, no step, no log and no VM.
package report

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"banger/internal/fault"
	"banger/internal/guest/proto"
)

// Prefix marks text of a guest in an error.
const Prefix = "the guest reports: "

// Bounds on the text of a guest, in bytes. Longer text is cut.
const (
	MaxText = 1 << 10
	MaxName = 128
)

// Error makes an error of what a guest reports.
func Error(said proto.Error) *fault.Error {
	err := fault.New(Kind(said.Kind), "%s", Marked(said.Msg))
	if said.Full {
		return err.WithHint("%s", fullHint)
	}
	return err
}

// fullHint is for a guest that has filled one of its disks. The host writes it: a guest's text is
// never shown as advice.
const fullHint = "A disk of the VM is full. Remove files in the VM, or enlarge the disk: " +
	"`banger vm set VM --disk-size SIZE` for /, --work-disk-size for /root."

// Marked returns a text of a guest, cleaned, after Prefix.
func Marked(said string) string {
	if said = Text(said); said == "" {
		said = "no reason"
	}
	return Prefix + said
}

// Kind returns the kind of an error that a guest reports. A kind that a guest must not report is
// Unavailable.
func Kind(said string) fault.Kind {
	switch kind := fault.Kind(said); kind {
	case fault.NotFound, fault.Exists, fault.Invalid, fault.WrongState, fault.Locked, fault.Denied, fault.Unsupported:
		return kind
	}
	return fault.Unavailable
}

// Broken makes an error of a guest that does not keep to the protocol. err is the host's own, but
// decoders quote their input in it. doing begins the message.
func Broken(doing string, err error) *fault.Error {
	return &fault.Error{Kind: fault.Unavailable, Msg: doing + ": " + Text(err.Error()), Err: err}
}

// Text is Line with MaxText bytes.
func Text(s string) string { return Line(s, MaxText) }

// Name is Line with MaxName bytes, for a name that the guest chooses.
func Name(s string) string { return Line(s, MaxName) }

const cut = "…"

// Line makes foreign text safe for a terminal and a log: one line of at most that many bytes.
func Line(s string, most int) string {
	if plain(s) && len(s) <= most {
		return strings.TrimSpace(s)
	}
	short := bound(s, most)
	line := strings.TrimSpace(strings.Map(visible, colourless(strings.ToValidUTF8(short, "?"))))
	if len(short) == len(s) {
		return line
	}
	return strings.TrimSpace(bound(line, most-len(cut))) + cut
}

// plain reports whether a text has visible ASCII characters and spaces only.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// bound cuts a text to a length, and not within a character.
func bound(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for back := 0; back < utf8.UTFMax-1 && !utf8.RuneStart(s[most]); back++ {
		most--
	}
	return s[:most]
}

// colourless removes control sequences of terminals (ECMA-48, 5.4), most of which set a colour. If
// only their first character were removed, the rest would stay as text.
func colourless(s string) string {
	const begin = "\x1b["
	var kept strings.Builder
	for {
		text, rest, found := strings.Cut(s, begin)
		kept.WriteString(text)
		if !found {
			return kept.String()
		}
		end := strings.IndexFunc(rest, func(r rune) bool { return r < ' ' || r > '?' })
		if end >= 0 && '@' <= rest[end] && rest[end] <= '~' {
			end++
		} else { // it is none
			end = 0
		}
		s = rest[end:]
	}
}

// visible returns the character to show: a space for any white space, and nothing for a character
// that controls the terminal, is invisible, or moves others (Default_Ignorable_Code_Point).
func visible(r rune) rune {
	switch {
	case unicode.IsSpace(r):
		return ' '
	case !unicode.IsPrint(r), unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector):
		return -1
	}
	return r
}
