package image

import (
	"sync"
	"time"

	"banger/internal/step"
)

// progressEvery is the time between two reports.
const progressEvery = 200 * time.Millisecond

// progress counts bytes and reports them. It is safe for concurrent use.
type progress struct {
	report step.Reporter
	event  step.Event

	mu   sync.Mutex
	done int64
	last time.Time
}

func newProgress(report step.Reporter, name string, total int64) *progress {
	return &progress{report: report, event: step.Event{Step: name, Phase: step.Progress, Total: total, Unit: "bytes"}, last: time.Now()}
}

func (p *progress) add(n int64) {
	p.mu.Lock()
	p.done += n
	now := time.Now()
	due := now.Sub(p.last) >= progressEvery
	e := p.event
	if due {
		p.last, e.Done, e.Time = now, p.done, now
	}
	p.mu.Unlock()
	if due {
		p.report.Report(e)
	}
}
