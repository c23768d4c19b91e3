package template

import (
	"context"
	"time"

	"banger/internal/model"
)

// Control lets tests of other packages look into a Pool and do single jobs of it. Product code does
// not use it.
type Control struct{ *Pool }

// Wanted lists the kinds of the templates that are to be made, by the first letters of their keys.
// The first of them may be under way.
func (c Control) Wanted() (kinds []string) {
	c.queue.mu.Lock()
	defer c.queue.mu.Unlock()
	if c.queue.building != "" {
		kinds = append(kinds, c.queue.building[:1])
	}
	for _, j := range c.queue.wanted {
		kinds = append(kinds, j.key[:1])
	}
	return kinds
}

// ForgetWanted empties the queue.
func (c Control) ForgetWanted() {
	c.queue.mu.Lock()
	defer c.queue.mu.Unlock()
	c.queue.wanted = nil
}

// SetBack counts the jobs that no start will have done for a while.
func (c Control) SetBack() (n int) {
	c.queue.mu.Lock()
	defer c.queue.mu.Unlock()
	for _, s := range c.queue.setbacks {
		if time.Now().Before(s.until) {
			n++
		}
	}
	return n
}

// Pass makes time pass for jobs that are set back. FirstRetry is the shortest such wait.
func (c Control) Pass(some time.Duration) {
	c.queue.mu.Lock()
	defer c.queue.mu.Unlock()
	for name, s := range c.queue.setbacks {
		s.until = s.until.Add(-some)
		c.queue.setbacks[name] = s
	}
}

// FirstRetry is how long a job is set back after its first failure.
const FirstRetry = retryFirst

// IsMaking reports whether a template is being made.
func (c Control) IsMaking() bool { return c.queue.underWay() != nil }

// MakeUniversal makes the universal template of a machine with this spec.
func (c Control) MakeUniversal(ctx context.Context, spec model.Spec) error {
	fingerprint, err := c.builder.fingerprint(ctx, spec)
	if err != nil {
		return err
	}
	return c.builder.ensure(ctx, job{key: universalKeyOf(fingerprint), spec: spec, fingerprint: fingerprint})
}

// Fill brings machines to standby from the image's template of this spec, in the foreground.
func (c Control) Fill(ctx context.Context, spec model.Spec) error {
	j, err := c.standbyJob(ctx, spec)
	if err != nil {
		return err
	}
	return c.standby.fill(ctx, j)
}

// FillInBackground is Fill as the background does it, which notes a failure.
func (c Control) FillInBackground(ctx context.Context, spec model.Spec) error {
	j, err := c.standbyJob(ctx, spec)
	if err == nil {
		c.do(ctx, j)
	}
	return err
}

func (c Control) standbyJob(ctx context.Context, spec model.Spec) (job, error) {
	fingerprint, err := c.builder.fingerprint(ctx, spec)
	return job{key: imageKeyOf(fingerprint, spec), spec: spec, fingerprint: fingerprint, standby: true}, err
}
