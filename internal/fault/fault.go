// Package fault is the closed set of error kinds of banger. Each kind has an HTTP status and an
// exit code.
//
// An error carries at most one kind and one hint. The message says what went wrong and names the
// input. The hint says what a person can do, and only the CLI prints it. Wrapping with %w keeps
// both. An error without a fault is Internal: a bug, or a host that misbehaves.
package fault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"syscall"
)

// Kind is the class of an error. The set is closed: a caller may switch over all of it.
type Kind string

// The kinds.
const (
	NotFound Kind = "not-found" // the named thing does not exist
	Exists   Kind = "exists"    // the name is taken
	Invalid  Kind = "invalid"   // the input is wrong in every state
	// WrongState means that the input is right, but the thing's present state does not allow it.
	WrongState  Kind = "wrong-state"
	Locked      Kind = "locked"      // another operation holds it
	Denied      Kind = "denied"      // the caller has no permission
	Unsupported Kind = "unsupported" // this host, driver or image cannot do that
	// Unavailable means that something needed does not answer: the daemon, a registry, the guest.
	Unavailable Kind = "unavailable"
	// Damaged means that what banger or another program has stored cannot be read.
	Damaged  Kind = "damaged"
	Canceled Kind = "canceled" // the caller gave up
	Internal Kind = "internal" // everything else
)

// Error is an error with a kind. New makes one; errors.As, KindOf and HintOf read one.
type Error struct {
	Kind Kind
	Msg  string
	Hint string // one sentence on what a person can do; may name a command
	Err  error  // the cause, if any
}

// New returns an error of the given kind. The format takes %w like fmt.Errorf, also several times.
func New(kind Kind, format string, args ...any) *Error {
	wrapped := fmt.Errorf(format, args...)
	cause := errors.Unwrap(wrapped)
	if _, several := wrapped.(interface{ Unwrap() []error }); several {
		cause = wrapped
	}
	return &Error{Kind: kind, Msg: wrapped.Error(), Err: cause}
}

// WithHint sets the hint and returns the same error.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

func (e *Error) Error() string { return e.Msg }
func (e *Error) Unwrap() error { return e.Err }

// Is makes errors.Is(err, &fault.Error{Kind: fault.NotFound}) true for every error of that kind.
func (e *Error) Is(target error) bool {
	var t *Error
	if !errors.As(target, &t) {
		return false
	}
	return t.Msg == "" && t.Err == nil && t.Kind == e.Kind
}

// KindOf returns the kind of the outermost fault in err's chain. Without one, it returns Canceled
// for an ended context, Unavailable for a passed deadline and for a host that has run out of
// something, "" for nil, and otherwise Internal.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded), IsShortage(err):
		return Unavailable
	}
	return Internal
}

// HintOf returns the first hint in err's chain, or "". A host that has run out of something has a
// hint of its own.
func HintOf(err error) string {
	if hint := Given(err); hint != "" {
		return hint
	}
	return shortage(err)
}

// Given returns the first hint in err's chain that WithHint has set, or "".
func Given(err error) string {
	for inner := err; inner != nil; {
		var e *Error
		if !errors.As(inner, &e) {
			break
		}
		if e.Hint != "" {
			return e.Hint
		}
		inner = e.Err
	}
	return ""
}

// Relief is the hint for a host without space. It names no command that deletes a VM.
const Relief = "`banger df` shows what takes the space. " +
	"`banger image prune`, `banger kernel prune` and `banger template prune` delete what no VM uses."

// IsShortage reports whether an error comes from a host that has run out of something.
func IsShortage(err error) bool { return shortage(err) != "" }

// shortage returns what a person can do if the host has run out of something that any operation
// needs. For other errors it returns "".
func shortage(err error) string {
	switch {
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return "Too many files and connections are open. End some commands, or start bangerd with a higher limit (ulimit -n)."
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "Free some space on the file system of banger's files. " + Relief
	case errors.Is(err, syscall.EFBIG):
		return "A file would be larger than bangerd may make files (ulimit -f), or than its file system allows. " +
			"`banger doctor` shows the limit. If you raise it: banger daemon restart"
	}
	return ""
}

// HTTPStatus is the status of an API response with an error of this kind.
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
		return 499 // nginx's "client closed request"; no registered status means it
	}
	return http.StatusInternalServerError
}

// ExitCode is the CLI's exit status for this kind. Codes start at 64, as in sysexits(3), and stay
// below the shell's own (126 and up); Canceled is 128+SIGINT. A command that exits with its guest
// command's status uses 125 instead.
func (k Kind) ExitCode() int {
	switch k {
	case "":
		return 0
	case Invalid:
		return 64
	case Damaged:
		return 65
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
