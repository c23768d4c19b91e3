package transfer

import (
	"io"
	"time"

	"banger/internal/step"
)

// Count returns a reader that reports how many bytes were read from r. total is 0 if it is not
// known.
func Count(r io.Reader, what string, total int64, report step.Reporter) io.Reader {
	report.Report(step.Event{Step: what, Phase: step.Started, Unit: "bytes"})
	return &counter{r: r, what: what, total: total, report: report}
}

// countEvery is the time between two reports of a counted reader.
const countEvery = 100 * time.Millisecond

type counter struct {
	r      io.Reader
	what   string
	total  int64
	report step.Reporter
	n      int64
	last   time.Time
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if now := time.Now(); now.Sub(c.last) >= countEvery {
		c.last = now
		c.report.Report(step.Event{Step: c.what, Phase: step.Progress, Done: c.n, Total: c.total, Unit: "bytes", Time: now})
	}
	return n, err
}
