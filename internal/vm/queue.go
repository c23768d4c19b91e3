package vm

import (
	"context"
	"slices"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/snapshot"
)

// job is a template to be made: all that a start had found out about the machine that it would have served.
type job struct {
	key         string
	spec        model.Spec
	image       model.Image
	kernel      model.Kernel
	initramfs   []string
	fingerprint string
	standby     bool // not the template but machines on standby from it
	urgent      bool // somebody waits for it
}

func (j job) universal() bool { return j.key[:1] == universalKey }

// beingMade describes the template that is going to be there.
func (j job) beingMade() model.Template {
	tpl := templateOf(j.key, j.spec, time.Now())
	tpl.Building = true
	return tpl
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

// started is told of each start that has succeeded: what it did not find is made for the next one.
func (t *templates) started(s *start) {
	if t.Off || s.fingerprint == "" || s.from.cold {
		return
	}
	if s.from.template {
		t.served(s.e.record(), s.from.Of)
	}
	j := job{spec: s.vm().Spec, image: s.image, kernel: s.kernel, initramfs: s.initramfs, fingerprint: s.fingerprint}
	switch s.from.Kind {
	case "":
		j.key = keyOf(universalKey, s.fingerprint)
		t.want(j)
	case model.FromUniversal, model.FromTemplate:
	default:
		return
	}
	if !s.fresh && s.from.standby == nil { // it had disks of its own to go on with, so it could not have used the image's
		return
	}
	j.key = imageKeyOf(s.fingerprint, j.spec)
	if s.from.Of != j.key { // one with smaller disks will do, but not for long
		t.want(j)
	}
	if t.Standby > 0 {
		j.standby = true
		t.want(j)
	}
}

// served is told of each start that has succeeded from a template.
func (t *templates) served(v model.VM, key string) {
	t.mu.Lock()
	delete(t.setbacks, key)
	t.mu.Unlock()
	if err := t.countUse(key); err != nil {
		t.m.logger(v).Warn("counting the use of a template", "template", key, "error", err)
	}
}

// setback is what has gone wrong with a template, or with standby from it, since it last served a start.
type setback struct {
	n     int       // failures to make it
	until time.Time // no start has it made before
	broke bool      // one was made that did not work
}

// A failure may have a cause that passes, such as a full disk, or one that stays, such as an init that never comes up. So a start that would have a
// template made which could not be made does so after a while, that grows by the factor with each failure.
const (
	retryFirst  = time.Minute
	retryFactor = 4
	retryLast   = 4 * time.Hour
)

// setBackLocked notes that a job failed.
func (t *templates) setBackLocked(name string) {
	s := t.setbacks[name]
	s.n++
	wait := retryFirst
	for range s.n - 1 {
		if wait = min(wait*retryFactor, retryLast); wait == retryLast {
			break
		}
	}
	s.until = time.Now().Add(wait)
	t.setbacks[name] = s
}

// isSetBack tells whether a job failed a short while ago.
func (t *templates) isSetBack(j job) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.isSetBackLocked(j)
}

func (t *templates) isSetBackLocked(j job) bool { return time.Now().Before(t.setbacks[j.name()].until) }

// succeeded notes that a job was done. That what was made works is another thing: see started.
func (t *templates) succeeded(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s, ok := t.setbacks[name]; ok {
		s.until = time.Time{}
		t.setbacks[name] = s
	}
}

// want puts a build into the queue, unless it is there or has failed a short while ago.
func (t *templates) want(j job) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.isSetBackLocked(j) || t.building == j.key && !j.standby {
		return
	}
	for _, other := range t.wanted {
		if other.name() == j.name() {
			return
		}
	}
	t.wanted = append(t.wanted, j)
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// wants tells whether a template is going to be made in the background.
func (t *templates) wants(key string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.building == key || slices.ContainsFunc(t.wanted, func(j job) bool { return j.key == key && !j.standby })
}

// next takes the first build from the queue.
func (t *templates) next() (job, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.wanted) == 0 {
		t.building = ""
		return job{}, false
	}
	j := t.wanted[0]
	t.wanted = t.wanted[1:]
	t.building = j.key
	return j, true
}

// run makes the wanted templates, one at a time and in the user's pauses, until ctx ends.
func (t *templates) run(ctx context.Context) {
	for {
		select {
		case <-t.wake:
		case <-ctx.Done():
			return
		}
		for j, ok := t.next(); ok && ctx.Err() == nil; j, ok = t.next() {
			if err := t.m.ops.quiet(ctx, quietTime); err != nil {
				return
			}
			t.make(ctx, j)
		}
	}
}

// make does one job, and notes when that is not possible.
func (t *templates) make(ctx context.Context, j job) {
	do := t.ensure
	if j.standby {
		do = t.fill
	}
	if err := do(ctx, j); err != nil && ctx.Err() == nil {
		t.mu.Lock()
		t.setBackLocked(j.name())
		again := t.setbacks[j.name()].until
		t.mu.Unlock()
		t.m.Log.WarnContext(ctx, "no template could be made; VMs go on being booted", "template", j.key, "again", again, "error", err)
	}
}

// ensure makes a template unless it is there. One is made at a time.
func (t *templates) ensure(ctx context.Context, j job) (err error) {
	defer func() {
		if err == nil {
			t.succeeded(j.name())
		}
	}()
	select {
	case t.making <- struct{}{}:
		defer func() { <-t.making }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if _, err := snapshot.Open(ctx, t.dir(j.key)); err == nil {
		return nil
	} else if fault.KindOf(err) != fault.NotFound {
		t.drop(ctx, j.key)
	}
	began := time.Now()
	log := t.m.Log.With("template", j.key, "image", j.spec.Image, "kernel", j.spec.Kernel)
	log.InfoContext(ctx, "making a template", "vcpus", j.spec.VCPUs, "memory", j.spec.Memory)
	tpl := j.beingMade()
	t.setUnderWay(&tpl)
	defer t.setUnderWay(nil)
	if err := t.build(ctx, j); err != nil {
		return err
	}
	log.InfoContext(ctx, "made a template", "took", time.Since(began))
	t.evict(ctx)
	return nil
}
