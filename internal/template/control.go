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
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.building != "" {
		kinds = append(kinds, c.building[:1])
	}
	for _, j := range c.wanted {
		kinds = append(kinds, j.key[:1])
	}
	return kinds
}

// ForgetWanted empties the queue.
func (c Control) ForgetWanted() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted = nil
}

// SetBack counts the jobs that no start will have done for a while.
func (c Control) SetBack() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.setbacks {
		if time.Now().Before(s.until) {
			n++
		}
	}
	return n
}

// Pass makes time pass for jobs that are set back. FirstRetry is the shortest such wait.
func (c Control) Pass(some time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, s := range c.setbacks {
		s.until = s.until.Add(-some)
		c.setbacks[name] = s
	}
}

// FirstRetry is how long a job is set back after its first failure.
const FirstRetry = retryFirst

// IsMaking reports whether a template is being made.
func (c Control) IsMaking() bool { return c.underWay() != nil }

// MakeUniversal makes the universal template of a machine with this spec.
func (c Control) MakeUniversal(ctx context.Context, spec model.Spec) error {
	fingerprint, err := c.fingerprint(ctx, spec)
	if err != nil {
		return err
	}
	return c.ensure(ctx, job{key: universalKeyOf(fingerprint), spec: spec, fingerprint: fingerprint})
}

// Fill brings machines to standby from the image's template of this spec, in the foreground.
func (c Control) Fill(ctx context.Context, spec model.Spec) error {
	j, err := c.standbyJob(ctx, spec)
	if err != nil {
		return err
	}
	return c.fill(ctx, j)
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
	fingerprint, err := c.fingerprint(ctx, spec)
	return job{key: imageKeyOf(fingerprint, spec), spec: spec, fingerprint: fingerprint, standby: true}, err
}
