package fault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
)

var kinds = []Kind{NotFound, Exists, Invalid, WrongState, Locked, Denied, Unsupported, Unavailable, Damaged, Canceled, Internal}

func TestWrappingKeepsKindAndHint(t *testing.T) {
	cause := errors.New("cause")
	err := fmt.Errorf("outer: %w", New(NotFound, "image %q: %w", "x", cause).WithHint("pull %s", "it"))
	if KindOf(err) != NotFound || HintOf(err) != "pull it" || !errors.Is(err, cause) {
		t.Errorf("kind %s, hint %q, %v", KindOf(err), HintOf(err), err)
	}
	if !errors.Is(err, &Error{Kind: NotFound}) || errors.Is(err, &Error{Kind: Exists}) {
		t.Error("errors.Is does not distinguish the kinds")
	}
	inner := New(Unavailable, "dial").WithHint("start it")
	if got := HintOf(New(Internal, "outer: %w", inner)); got != "start it" {
		t.Errorf("the inner hint is lost: %q", got)
	}
}

// TestSeveralCauses wraps two errors at once. Neither they nor their hints are lost.
func TestSeveralCauses(t *testing.T) {
	cause := errors.New("cause")
	err := New(Unavailable, "sending: %w; then: %w", New(NotFound, "gone").WithHint("look"), cause)
	if !errors.Is(err, cause) || !errors.Is(err, &Error{Kind: NotFound}) {
		t.Errorf("a cause of %q is lost", err)
	}
	if KindOf(err) != Unavailable || HintOf(err) != "look" {
		t.Errorf("kind %s, hint %q", KindOf(err), HintOf(err))
	}
}

func TestJoinedErrorsHaveTheFirstKind(t *testing.T) {
	err := errors.Join(New(Exists, "taken").WithHint("other name"), New(Internal, "clean-up"))
	if KindOf(err) != Exists || HintOf(err) != "other name" {
		t.Errorf("kind %s, hint %q", KindOf(err), HintOf(err))
	}
}

func TestKindOfOthers(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Kind
	}{{nil, ""}, {errors.New("x"), Internal}, {context.Canceled, Canceled}, {fmt.Errorf("y: %w", context.DeadlineExceeded), Unavailable}} {
		if got := KindOf(c.err); got != c.want {
			t.Errorf("KindOf(%v) = %q, want %q", c.err, got, c.want)
		}
	}
	if HintOf(nil) != "" || HintOf(errors.New("x")) != "" {
		t.Error("HintOf made a hint for an error without one")
	}
}

func TestCodes(t *testing.T) {
	seen := map[int]Kind{}
	for _, k := range kinds {
		code := k.ExitCode()
		if other, ok := seen[code]; ok {
			t.Errorf("%s and %s both exit with %d", k, other, code)
		}
		seen[code] = k
		if code <= 0 || code >= 125 && k != Canceled {
			t.Errorf("%s exits with %d, which the shell or a signal uses", k, code)
		}
		if s := k.HTTPStatus(); s < 400 || s > 599 {
			t.Errorf("%s has the HTTP status %d, which is no error", k, s)
		}
	}
	if Kind("").ExitCode() != 0 {
		t.Error("success must exit with 0")
	}
}

// TestShortage: an error of a host that has run out of something is no mistake of banger, however
// deep it is wrapped. It says what to do.
func TestShortage(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		err := fmt.Errorf("starting: %w", &os.PathError{Op: "open", Path: "/x", Err: errno})
		if KindOf(err) != Unavailable || HintOf(err) == "" {
			t.Errorf("%v has the kind %s and the hint %q", err, KindOf(err), HintOf(err))
		}
		if got := HintOf(New(Denied, "outer: %w", err).WithHint("its own")); got != "its own" {
			t.Errorf("the hint of a fault is replaced by %q", got)
		}
		if got := Given(err); got != "" {
			t.Errorf("nobody gave the hint %q", got)
		}
	}
	if err := error(syscall.EIO); KindOf(err) != Internal || HintOf(err) != "" {
		t.Errorf("%v has the kind %s and the hint %q", err, KindOf(err), HintOf(err))
	}
}
