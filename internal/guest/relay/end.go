package relay

import (
	"encoding/json"
	"errors"
	"strings"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/guest/report"
)

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

// parseError makes an error of a FrameError's payload.
func parseError(payload []byte) error {
	var e proto.Error
	if err := json.Unmarshal(payload, &e); err != nil {
		return broken(errNotAnError)
	}
	return report.Error(e)
}

// broken is the error of an agent that breaks the protocol.
func broken(err error) error {
	return report.Broken("the guest's agent broke the protocol", err)
}

// lost is the error of a stream that ends before the command.
func lost(err error) error {
	return fault.New(fault.Unavailable, "%w: %w", ErrLost, err)
}
