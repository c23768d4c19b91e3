// Package fault is the closed set of error kinds that banger speaks of, and what each one means to a
// program: an HTTP status and an exit code.
//
// An error carries at most one kind, one stable code, and one hint. The message says what went wrong and
// names the input; the hint says what to do about it and is printed by the CLI only. Wrapping with %w keeps
// all three. Errors without a fault are Internal: a bug, or a host that misbehaves.
package fault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// Kind says what class of failure an error is. The set is closed: callers may switch over it exhaustively.
type Kind string

// The kinds.
const (
	NotFound    Kind = "not-found"   // the named thing does not exist
	Exists      Kind = "exists"      // the name is taken
	Invalid     Kind = "invalid"     // the input cannot be right, whatever the state
	WrongState  Kind = "wrong-state" // the input is fine, the thing is in a state that does not allow it
	Locked      Kind = "locked"      // somebody else is at work on it
	Denied      Kind = "denied"      // the caller may not
	Unsupported Kind = "unsupported" // this host, driver or image cannot do that
	Unavailable Kind = "unavailable" // something needed does not answer: the daemon, a registry, the guest
	Canceled    Kind = "canceled"    // the caller gave up
	Internal    Kind = "internal"    // everything else
)

// Error is an error with a kind. Build one with New; read one with errors.As, KindOf and HintOf.
type Error struct {
	Kind Kind
	Msg  string
	Hint string // what the person can do about it; one sentence, may name a command
	Err  error  // the cause, if any
}

// New returns an error of the given kind. The format takes %w like fmt.Errorf.
func New(kind Kind, format string, args ...any) *Error {
	wrapped := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Msg: wrapped.Error(), Err: errors.Unwrap(wrapped)}
}

// WithHint sets the hint and returns the same error.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

func (e *Error) Error() string { return e.Msg }
func (e *Error) Unwrap() error { return e.Err }

// Is makes errors.Is(err, &fault.Error{Kind: fault.NotFound}) true for any error of that kind.
func (e *Error) Is(target error) bool {
	var t *Error
	if !errors.As(target, &t) {
		return false
	}
	return t.Msg == "" && t.Err == nil && t.Kind == e.Kind
}

// KindOf returns the kind of the outermost fault in err's chain; an ended context is Canceled, a deadline that passed Unavailable, anything
// else Internal.
// It returns "" for nil.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return Unavailable
	}
	return Internal
}

// HintOf returns the first hint in err's chain, or "".
func HintOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}

// HTTPStatus is the status of an API response that carries an error of this kind.
func (k Kind) HTTPStatus() int {
	switch k {
	case NotFound:
		return http.StatusNotFound
	case Exists, WrongState:
		return http.StatusConflict
	case Invalid:
		return http.StatusBadRequest
	case Locked:
		return http.StatusLocked
	case Denied:
		return http.StatusForbidden
	case Unsupported:
		return http.StatusUnprocessableEntity
	case Unavailable:
		return http.StatusServiceUnavailable
	case Canceled:
		return 499 // nginx's "client closed request"; no registered status says it
	}
	return http.StatusInternalServerError
}

// ExitCode is the CLI's exit status for an error of this kind. The codes start at 64 as in sysexits(3), and
// stay below 125 so that they are apart from the shell's own and from 128+signal. Commands that run something in a guest
// exit with the guest's status; 125 then means that banger itself failed, as with docker and podman.
func (k Kind) ExitCode() int {
	switch k {
	case "":
		return 0
	case Invalid:
		return 64
	case NotFound:
		return 66
	case Exists:
		return 67
	case WrongState:
		return 68
	case Unavailable:
		return 69
	case Internal:
		return 70
	case Unsupported:
		return 71
	case Locked:
		return 75
	case Denied:
		return 77
	case Canceled:
		return 130
	}
	return 70
}
