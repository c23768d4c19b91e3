package render

import (
	"cmp"
	"fmt"
	"io"
	"sync"
	"time"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/step"
)

// Run records the times of a run, from this program's start to its end. The daemon runs on the same
// host, so its times are comparable. Methods may be called concurrently.
type Run struct {
	began time.Time

	mu    sync.Mutex
	name  string    // of the VM
	asked time.Time // when the daemon was reached
	ready time.Time // when the last step before the command ended
	runs  bool      // the command was begun
	ended time.Time // when the command ended, or failed to begin
	steps []ui.Bar
}

// NewRun returns a timeline that starts when the program began.
func NewRun(began time.Time) *Run { return &Run{began: began} }

// Ask records that the daemon was asked.
func (t *Run) Ask() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asked = time.Now()
}

// Take records what the daemon reports.
func (t *Run) Take(e step.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case e.Step == api.EventVM:
		t.name = e.Detail
		t.addLocked("create", t.asked, e.Time, false)
	case e.Step == api.EventExec:
		t.runs = true
	case e.Step == api.EventDelete:
	case e.Phase == step.Done || e.Phase == step.Failed:
		t.addLocked(e.Step, e.Time.Add(-e.Duration), e.Time, e.Phase == step.Failed)
		t.ready = e.Time
	}
}

// End records that the command has ended.
func (t *Run) End() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = time.Now()
}

func (t *Run) addLocked(name string, from, to time.Time, failed bool) {
	t.steps = append(t.steps, t.bar(name, from, to, failed))
}

func (t *Run) bar(name string, from, to time.Time, failed bool) ui.Bar {
	return ui.Bar{Name: name, Offset: from.Sub(t.began), Duration: to.Sub(from), Failed: failed}
}

// Write draws the timeline, unless the daemon was never asked.
func (t *Run) Write(w io.Writer, columns int, style ui.Style) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.asked.IsZero() {
		return
	}
	client := ui.Group{Name: "command line", Bars: []ui.Bar{t.bar("start", t.began, t.asked, false)}}
	var guest ui.Group
	if t.runs { // the end of a command that was interrupted is now
		end := t.ended
		if end.IsZero() {
			end = now
		}
		guest = ui.Group{Name: "guest", Bars: []ui.Bar{t.bar("command", t.ready, end, t.ended.IsZero())}}
	}
	if !t.ended.IsZero() {
		client.Bars = append(client.Bars, t.bar("end", t.ended, now, false))
	}
	fmt.Fprintf(w, "%s: %s in all\n\n", style.Bold(ui.Clean(cmp.Or(t.name, "run"))), ui.Duration(now.Sub(t.began)))
	groups := []ui.Group{client, {Name: "host", Bars: t.steps}, guest}
	// An error is ignored: the run has succeeded even if nobody reads its timeline.
	_ = ui.Timeline(w, min(columns, maxTimeline), style, groups)
}
