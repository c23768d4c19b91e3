// Package step runs plans: lists of named steps that can be undone. It also defines the events by
// which any long operation reports its progress, because to a person a step and a download are both
// a wait.
//
// The package uses only the standard library.
package step

import "time"

// Phase is what an Event reports.
type Phase string

// The phases of a step. A step starts once, reports progress any number of times, and ends once.
const (
	Started  Phase = "started"
	Progress Phase = "progress"
	Done     Phase = "done"
	Failed   Phase = "failed"
	Skipped  Phase = "skipped"     // the only event of a step with nothing to do
	Undone   Phase = "undone"      // the step was undone
	Stuck    Phase = "undo-failed" // undoing the step failed; something is left
)

// PowerOff is the step of a stop in which the guest ends itself. If it fails, the stop continues
// without the guest, which may not have saved its data.
const PowerOff = "power-off"

// Event is one report of a long operation. The API sends it as a server-sent event.
type Event struct {
	Step   string    `json:"step"`             // such as "pull/layer 2 of 5"
	Phase  Phase     `json:"phase"`            //
	Detail string    `json:"detail,omitempty"` // one line for a person, without a period
	Done   int64     `json:"done,omitempty"`   // so far, in Unit
	Total  int64     `json:"total,omitempty"`  // in Unit; 0 if unknown
	Unit   string    `json:"unit,omitempty"`   // "bytes", or what Done counts
	Error  string    `json:"error,omitempty"`  //
	Time   time.Time `json:"time"`             //
	// Duration is in nanoseconds, and set on Done and Failed.
	Duration time.Duration `json:"duration,omitempty" format:"nanoseconds"`
}

// Reporter takes events. It must be safe for concurrent use and return soon. A nil Reporter drops
// the events.
type Reporter func(Event)

// Report sends an event. It sets the time if that is unset.
func (r Reporter) Report(e Event) {
	if r == nil {
		return
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	r(e)
}

// Track reports that a step started. The returned function reports its end, with the error of the
// step: done := report.Track("convert", "image to ext4"); done(convert())
func (r Reporter) Track(name, detail string) func(error) {
	start := time.Now()
	r.Report(Event{Step: name, Phase: Started, Detail: detail, Time: start})
	return func(err error) {
		e := Event{Step: name, Phase: Done, Detail: detail, Duration: time.Since(start)}
		if err != nil {
			e.Phase, e.Error = Failed, err.Error()
		}
		r.Report(e)
	}
}
