package relay

import (
	"encoding/json"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"banger/internal/fault"
	"banger/internal/guest/proto"
)

// MaxMessage bounds the part of a guest's error message that a person sees, in bytes.
const MaxMessage = 1 << 10

var (
	errNotAnExit  = errors.New("no exit status")
	errNotAnError = errors.New("no error")
)

// ParseExit reads a FrameExit's payload.
func ParseExit(payload []byte) (proto.Exit, error) {
	var e proto.Exit
	if err := json.Unmarshal(payload, &e); err != nil || e.Code < 0 || e.Code > 255 {
		return proto.Exit{}, broken(errNotAnExit)
	}
	e.Signal = signalName(e.Signal)
	return e, nil
}

// signalName returns the name of the signal that ended a command, or "" if the guest sent no valid
// name.
func signalName(name string) string {
	const longest = 16
	bad := func(r rune) bool { return !('A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '+' || r == '-') }
	if len(name) > longest || !strings.HasPrefix(name, "SIG") || strings.ContainsFunc(name, bad) {
		return ""
	}
	return name
}

// parseError makes a fault of a FrameError's payload. Its message names the guest as its origin. It
// has no hint, so that a guest cannot advise the host's user.
func parseError(payload []byte) error {
	var e proto.Error
	if err := json.Unmarshal(payload, &e); err != nil {
		return broken(errNotAnError)
	}
	msg := Clean(e.Msg)
	if msg == "" {
		msg = "no reason"
	}
	return fault.New(kindOf(e.Kind), "the guest reports: %s", msg)
}

// kindOf returns the kind of an error that a guest reported. A guest cannot report that banger
// itself failed or that the user gave up.
func kindOf(reported string) fault.Kind {
	switch kind := fault.Kind(reported); kind {
	case fault.NotFound, fault.Exists, fault.Invalid, fault.WrongState, fault.Locked, fault.Denied, fault.Unsupported:
		return kind
	}
	return fault.Unavailable
}

// broken is the error of an agent that breaks the protocol.
func broken(err error) error {
	return fault.New(fault.Unavailable, "the guest's agent broke the protocol: %w", err)
}

// lost is the error of a stream that ends before the command.
func lost(err error) error {
	return fault.New(fault.Unavailable, "%w: %w", ErrLost, err)
}

// Clean makes a guest's text safe for a terminal or a log: one line of printable characters, at
// most MaxMessage bytes.
func Clean(s string) string {
	if n := MaxMessage; len(s) > n {
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
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
