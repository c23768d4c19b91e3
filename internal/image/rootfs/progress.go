package rootfs

import (
	"sync"
	"time"

	"banger/internal/step"
)

// progressEvery is the time between two reports.
const progressEvery = 200 * time.Millisecond

// Progress counts bytes and reports them. It is safe for concurrent use.
type Progress struct {
	report step.Reporter
	event  step.Event

	mu   sync.Mutex
	done int64
	last time.Time
}

// NewProgress counts towards total bytes of the named step; total is 0 if unknown.
func NewProgress(report step.Reporter, name string, total int64) *Progress {
	return &Progress{report: report, event: step.Event{Step: name, Phase: step.Progress, Total: total, Unit: "bytes"}, last: time.Now()}
}

// Add counts n bytes.
func (p *Progress) Add(n int64) {
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

// Write counts the bytes.
func (p *Progress) Write(b []byte) (int, error) {
	p.Add(int64(len(b)))
	return len(b), nil
}
