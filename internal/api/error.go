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

// Error is an error that the daemon reported. It unwraps to a *fault.Error, so that the kind and
// the hint survive the wire.
type Error struct {
	Problem Problem
	fault   *fault.Error
}

func (e *Error) Error() string { return e.Problem.Detail }
func (e *Error) Unwrap() error { return e.fault }

// Err returns a problem from the wire as an error. A kind that this program does not know becomes
// Internal.
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

// ProblemOf describes err for the wire. It returns nil for a nil error.
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

// titles returns a title for each kind. The set of kinds is closed, and so is this one.
func titles() map[fault.Kind]string {
	return map[fault.Kind]string{
		fault.NotFound:    "Not found",
		fault.Exists:      "Exists already",
		fault.Invalid:     "Invalid request",
		fault.WrongState:  "Not possible in this state",
		fault.Locked:      "In use by another operation",
		fault.Denied:      "Not allowed",
		fault.Unsupported: "Not supported here",
		fault.Unavailable: "Not available",
		fault.Damaged:     "Damaged",
		fault.Canceled:    "Canceled",
		fault.Internal:    "Internal error",
	}
}

// StreamProblem is the payload of a FrameError that the daemon writes. It is a Problem that can
// also be read as a proto.Error, which the agent in the guest writes.
type StreamProblem struct {
	Problem
	Message string `json:"message"` // Problem.Detail again, under its name in proto.Error
}

// StreamProblemOf describes err for a FrameError.
func StreamProblemOf(err error) StreamProblem {
	p := ProblemOf(err)
	return StreamProblem{Problem: *p, Message: p.Detail}
}

// FrameErr returns the error in a FrameError's payload, whether the daemon or the agent wrote it.
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

// statusErr returns the error of a response without a problem document.
func statusErr(status int) error {
	return fault.New(fault.Internal, "bangerd answered %d %s", status, http.StatusText(status)).
		WithHint("Something else may listen on the socket; try `banger daemon restart`.")
}
