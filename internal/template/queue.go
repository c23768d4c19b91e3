package template

import (
	"context"
	"slices"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/snapshot"
)

// job is a template to be made, or machines to be brought to standby from it.
type job struct {
	key         string
	spec        model.Spec
	fingerprint string
	standby     bool // machines on standby, not the template
	urgent      bool // somebody waits for it
}

func (j job) universal() bool { return j.key[:1] == universalKey }

// beingMade describes the template that will exist.
func (j job) beingMade() *model.Template {
	t := describe(j.key, j.spec, time.Now())
	t.Building = true
	return &t
}

// name tells jobs apart.
func (j job) name() string {
	if j.standby {
		return j.key + "+"
	}
	return j.key
}

// quietTime without any operation passes before a job begins: a user's command comes first.
const quietTime = time.Second

// setback is what has gone wrong with a template, or with standby from it, since it last served a
// start.
type setback struct {
	n     int       // failures to make it
	until time.Time // no start has it made before
	broke bool      // one was made that did not work
}

// A failure may have a cause that passes, such as a full disk, or one that stays, such as an init
// that never comes up. So the wait before the next try grows by a factor with each failure.
const (
	retryFirst  = time.Minute
	retryFactor = 4
	retryLast   = 4 * time.Hour
)

// setBackLocked notes that a job failed.
func (p *Pool) setBackLocked(name string) {
	s := p.setbacks[name]
	s.n++
	wait := retryFirst
	for range s.n - 1 {
		if wait = min(wait*retryFactor, retryLast); wait == retryLast {
			break
		}
	}
	s.until = time.Now().Add(wait)
	p.setbacks[name] = s
}

// isSetBack reports whether a job failed a short while ago.
func (p *Pool) isSetBack(j job) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.isSetBackLocked(j)
}

func (p *Pool) isSetBackLocked(j job) bool { return time.Now().Before(p.setbacks[j.name()].until) }

// succeeded notes that a job was done. Whether its result works is another matter: see Started.
func (p *Pool) succeeded(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s, ok := p.setbacks[name]; ok {
		s.until = time.Time{}
		p.setbacks[name] = s
	}
}

// want puts a job into the queue, unless it is there or has failed a short while ago.
func (p *Pool) want(j job) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isSetBackLocked(j) || p.building == j.key && !j.standby {
		return
	}
	for _, other := range p.wanted {
		if other.name() == j.name() {
			return
		}
	}
	p.wanted = append(p.wanted, j)
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// wants reports whether a template is going to be made in the background.
func (p *Pool) wants(key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.building == key || slices.ContainsFunc(p.wanted, func(j job) bool { return j.key == key && !j.standby })
}

// next takes the first job from the queue.
func (p *Pool) next() (job, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.wanted) == 0 {
		p.building = ""
		return job{}, false
	}
	j := p.wanted[0]
	p.wanted = p.wanted[1:]
	p.building = j.key
	return j, true
}

func (p *Pool) underWay() *model.Template {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.beingMade
}

func (p *Pool) setUnderWay(t *model.Template) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.beingMade = t
}

// work does the wanted jobs, one at a time and in the user's pauses, until ctx ends.
func (p *Pool) work(ctx context.Context) {
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
		for j, ok := p.next(); ok && ctx.Err() == nil; j, ok = p.next() {
			if err := p.Quiet(ctx, quietTime); err != nil {
				return
			}
			p.do(ctx, j)
		}
	}
}

// do does one job, and notes a failure.
func (p *Pool) do(ctx context.Context, j job) {
	do := p.ensure
	if j.standby {
		do = p.fill
	}
	if err := do(ctx, j); err != nil && ctx.Err() == nil {
		p.mu.Lock()
		p.setBackLocked(j.name())
		again := p.setbacks[j.name()].until
		p.mu.Unlock()
		p.log.WarnContext(ctx, "a template could not be made; VMs continue to boot", "template", j.key, "again", again, "error", err)
	}
}

// ensure makes a template unless it exists. One is made at a time.
func (p *Pool) ensure(ctx context.Context, j job) (err error) {
	select {
	case p.making <- struct{}{}:
		defer func() { <-p.making }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := p.ensureAlone(ctx, j); err != nil {
		return err
	}
	p.succeeded(j.name())
	return nil
}

func (p *Pool) ensureAlone(ctx context.Context, j job) error {
	if _, err := snapshot.Open(ctx, p.dir(j.key)); err == nil {
		return nil
	} else if fault.KindOf(err) != fault.NotFound {
		p.drop(ctx, j.key)
	}
	began := time.Now()
	log := p.log.With("template", j.key, "image", j.spec.Image, "kernel", j.spec.Kernel)
	log.InfoContext(ctx, "making a template", "vcpus", j.spec.VCPUs, "memory", j.spec.Memory)
	p.setUnderWay(j.beingMade())
	defer p.setUnderWay(nil)
	if err := p.build(ctx, j); err != nil {
		return err
	}
	log.InfoContext(ctx, "made a template", "took", time.Since(began))
	p.evict(ctx)
	return nil
}
