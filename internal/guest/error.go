package guest

import (
	"encoding/json"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"banger/internal/fault"
	"banger/internal/guest/proto"
)

// maxMessage bounds the part of a guest's error message that a person sees, in bytes.
const maxMessage = 1 << 10

// replyError makes a fault of an error answer. An answer that no agent of ours sends is
// Unavailable.
func replyError(status int, body []byte) error {
	var e proto.Error
	if status < 400 || json.Unmarshal(body, &e) != nil || !known(fault.Kind(e.Kind)) {
		return fault.New(fault.Unavailable, "the agent answers with status %d", status)
	}
	err := GuestError(e)
	var f *fault.Error
	if e.Full && errors.As(err, &f) {
		return f.WithHint("%s", fullHint)
	}
	return err
}

// fullHint is for a guest that has filled one of its disks. The host writes it: a guest's text
// is never shown as advice.
const fullHint = "A disk of the VM is full. Remove files in the VM, or enlarge the disk: " +
	"`banger vm set VM --disk-size SIZE` for /, --work-disk-size for /root."

// GuestError makes a fault of an error that a guest sent, in an answer or in a FrameError.
func GuestError(e proto.Error) error {
	kind := fault.Kind(e.Kind)
	if !known(kind) {
		kind = fault.Unavailable
	}
	msg := Clean(e.Msg)
	if msg == "" {
		msg = "the agent gives no reason"
	}
	return fault.New(kind, "%s", msg)
}

// known reports whether a kind is one of package fault's.
func known(k fault.Kind) bool {
	switch k {
	case fault.NotFound, fault.Exists, fault.Invalid, fault.WrongState, fault.Locked, fault.Denied,
		fault.Unsupported, fault.Unavailable, fault.Canceled, fault.Internal:
		return true
	}
	return false
}

// Clean makes a guest's text safe for a terminal or a log: one line of printable characters, at
// most maxMessage bytes.
func Clean(s string) string {
	if len(s) > maxMessage {
		s = s[:maxMessage]
		for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) {
			s = s[:len(s)-1]
		}
		if r, size := utf8.DecodeLastRuneInString(s); r == utf8.RuneError && size == 1 {
			s = s[:len(s)-1]
		}
	}
	s = strings.ToValidUTF8(s, "?")
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s))
}
