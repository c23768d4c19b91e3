// Package step runs plans: lists of named, undoable steps. It also defines the events by which any long
// operation tells how far it is, because a step and a download look the same to the person who waits.
//
// The package uses the standard library only.
package step

import "time"

// Phase says what an Event reports.
type Phase string

// The phases of a step. A step starts once, may report progress any number of times, and ends once.
const (
	Started  Phase = "started"
	Progress Phase = "progress"
	Done     Phase = "done"
	Failed   Phase = "failed"
	Skipped  Phase = "skipped"     // instead of the others: there was nothing to do, as Detail says
	Undone   Phase = "undone"      // a rollback of this step succeeded
	Stuck    Phase = "undo-failed" // a rollback of this step failed; something is left over
)

// Event is one report of a long operation. It is part of the API: it travels as a server-sent event.
type Event struct {
	Step     string        `json:"step"`                                    // the step's stable name, such as "system-disk" or "pull/layer 2 of 5"
	Phase    Phase         `json:"phase"`                                   //
	Detail   string        `json:"detail,omitempty"`                        // what a person may want to know, one line, no trailing period
	Done     int64         `json:"done,omitempty"`                          // progress so far, in Unit
	Total    int64         `json:"total,omitempty"`                         // progress when finished; 0 when not known
	Unit     string        `json:"unit,omitempty"`                          // "bytes", or what is counted
	Error    string        `json:"error,omitempty"`                         //
	Time     time.Time     `json:"time"`                                    //
	Duration time.Duration `json:"duration,omitempty" format:"nanoseconds"` // set on Done and Failed, nanoseconds
}

// Reporter takes events. It must be safe for concurrent use and must not block for long. A nil Reporter drops them.
type Reporter func(Event)

// Report sends an event, stamping its time.
func (r Reporter) Report(e Event) {
	if r == nil {
		return
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	r(e)
}

// Track reports that the named step started and returns a function that reports its end; call it with the step's error.
//
//	end := report.Track("convert", "image to ext4")
//	err := convert()
//	end(err)
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
