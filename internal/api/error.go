package api

import (
	"encoding/json"
	"errors"
	"net/http"

	"banger/internal/fault"
	"banger/internal/step"
)

// problemType begins every Problem.Type; the kind follows.
const problemType = "urn:banger:problem:"

// Error is what the daemon answered instead of a result. It unwraps to a *fault.Error, so the kind and the hint survive
// the wire.
type Error struct {
	Problem Problem
	fault   *fault.Error
}

func (e *Error) Error() string { return e.Problem.Detail }
func (e *Error) Unwrap() error { return e.fault }

// Err makes an error of a problem that came over the wire. A kind that this program does not know is Internal.
func (p Problem) Err() error {
	kind := fault.Kind(p.Kind)
	if _, known := titles()[kind]; !known {
		kind = fault.Internal
	}
	if p.Detail == "" {
		p.Detail = "bangerd gave no reason"
	}
	return &Error{Problem: p, fault: &fault.Error{Kind: kind, Msg: p.Detail, Hint: p.Hint}}
}

// ProblemOf describes err for the wire. It is nil for a nil error.
func ProblemOf(err error) *Problem {
	if err == nil {
		return nil
	}
	kind := fault.KindOf(err)
	p := &Problem{
		Type:   problemType + string(kind),
		Title:  titles()[kind],
		Status: kind.HTTPStatus(),
		Detail: err.Error(),
		Kind:   string(kind),
		Hint:   fault.HintOf(err),
	}
	var passed *Error
	if errors.As(err, &passed) {
		p.VM, p.Step, p.Log = passed.Problem.VM, passed.Problem.Step, passed.Problem.Log
		p.RequestID = passed.Problem.RequestID
	}
	var failed *step.Error
	if errors.As(err, &failed) {
		p.Step = failed.Step
	}
	return p
}

// titles are the kinds in words. The set of kinds is closed, and so is this one.
func titles() map[fault.Kind]string {
	return map[fault.Kind]string{
		fault.NotFound:    "Not found",
		fault.Exists:      "Exists already",
		fault.Invalid:     "Invalid request",
		fault.WrongState:  "Not possible in this state",
		fault.Locked:      "Somebody else is at work on it",
		fault.Denied:      "Not allowed",
		fault.Unsupported: "Not supported here",
		fault.Unavailable: "Not available",
		fault.Canceled:    "Canceled",
		fault.Internal:    "Internal error",
	}
}

// StreamProblem is the payload of a FrameError that the daemon writes: a Problem that also reads as a proto.Error, which is what the
// agent in the guest writes.
type StreamProblem struct {
	Problem
	Message string `json:"message"` // Problem.Detail again, under the name that proto.Error has for it
}

// StreamProblemOf describes err for a FrameError.
func StreamProblemOf(err error) StreamProblem {
	p := ProblemOf(err)
	return StreamProblem{Problem: *p, Message: p.Detail}
}

// FrameErr makes an error of a FrameError's payload, whether the daemon or the agent wrote it.
func FrameErr(payload []byte) error {
	var p StreamProblem
	if err := json.Unmarshal(payload, &p); err != nil {
		return fault.New(fault.Internal, "reading the stream's error: %w", err)
	}
	if p.Detail == "" {
		p.Detail = p.Message
	}
	return p.Problem.Err()
}

// statusErr is the error of a response that holds no problem document.
func statusErr(status int) error {
	return fault.New(fault.Internal, "bangerd answered %d %s", status, http.StatusText(status)).
		WithHint("Something else may listen on the socket; try `banger daemon restart`.")
}
