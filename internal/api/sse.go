package api

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"banger/internal/fault"
	"banger/internal/step"
)

// MediaSSE is the media type of server-sent events (HTML Living Standard, section 9.2).
const MediaSSE = "text/event-stream"

// The names of the events of a long operation.
const (
	EventStep    = "step"
	EventResult  = "result"
	EventProblem = "problem"
)

// maxEvent bounds one server-sent event, bytes.
const maxEvent = 8 << 20

// WriteEvent writes one server-sent event with v as JSON in a single Write. JSON holds no line
// breaks, so one data line suffices.
func WriteEvent(w io.Writer, name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding a %s event: %w", name, err)
	}
	buf := make([]byte, 0, len(data)+len(name)+17)
	buf = append(append(buf, "event: "...), name...)
	buf = append(append(buf, "\ndata: "...), data...)
	_, err = w.Write(append(buf, "\n\n"...))
	return err
}

// readEvents reads one operation's events up to its result, which it decodes into out unless out is
// nil, or up to its problem, which it returns as an error. It ignores events of other names, which
// are for newer clients.
func readEvents(r io.Reader, report step.Reporter, out any) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4<<10), maxEvent)
	var name string
	var data []byte
	for lines.Scan() {
		line := lines.Bytes()
		if len(line) > 0 {
			field, value, _ := bytes.Cut(line, []byte(":"))
			value = bytes.TrimPrefix(value, []byte(" "))
			switch string(field) {
			case "event":
				name = string(value)
			case "data":
				if len(data)+len(value) > maxEvent {
					return fmt.Errorf("reading bangerd's events: one is larger than %d bytes", maxEvent)
				}
				data = append(data, value...)
			}
			continue
		}
		last, err := takeEvent(name, data, report, out)
		if last || err != nil {
			return err
		}
		name, data = "", data[:0]
	}
	err := lines.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return lostDaemon(err)
}

// takeEvent handles one event and reports whether it was the last one of its operation.
func takeEvent(name string, data []byte, report step.Reporter, out any) (last bool, err error) {
	switch name {
	case EventStep:
		var e step.Event
		if err := json.Unmarshal(data, &e); err != nil {
			return true, fmt.Errorf("decoding a step event: %w", err)
		}
		report.Report(e)
	case EventResult:
		if out == nil {
			return true, nil
		}
		if err := json.Unmarshal(data, out); err != nil {
			return true, fmt.Errorf("decoding the result: %w", err)
		}
		return true, nil
	case EventProblem:
		var p Problem
		if err := json.Unmarshal(data, &p); err != nil {
			return true, fmt.Errorf("decoding the problem: %w", err)
		}
		return true, p.Err()
	}
	return false, nil
}

var errLost = errors.New("bangerd went away before it answered")

// isLost reports whether a request got no answer because the daemon has ended.
func isLost(err error) bool { return errors.Is(err, errLost) || nobodyListens(err) }

// lostDaemon returns the error of an answer that was cut off.
func lostDaemon(err error) error {
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	return fault.New(fault.Unavailable, "%w: %w", errLost, err).
		WithHint("Look into `banger daemon logs`; running VMs are not affected.")
}
