// Package template keeps saved machines without an identity, so that a start restores one instead
// of booting. No user has to know of them: what a start did not find is made in the background for
// the next one, and a template that does not work is removed.
//
// # Kinds
//
// A universal template is an agent that waits in the initramfs with no drive looked at. It serves
// every image on a machine of its shape. An image's template has the image and fresh disks mounted
// and its init started. It serves VMs that have no disks yet.
//
// # Keys
//
// A template is found by its key. The key is a hash of every input that the template depends on:
// the driver's fingerprint of the machine (driver, CPU, kernel, agent, shape), and for an image's
// template the image's id and the sizes of its disks. So a template is right or not found. What
// nobody finds any more is removed as the least recently used.
//
// An image's template is for one size of each disk. A guest can grow smaller disks, so one template
// with the smallest disks could serve all VMs. But growing costs more than the rest of a run: of
// 0.3 s in emulation, growing to twice the size takes 0.4 s, and growing from 32 MiB takes 1.5 s.
//
// # Standby
//
// With Config.Standby machines wait, restored from an image's template and taken through an
// identity that means nothing. A start takes one over, together with its id.
//
// # What a crash leaves
//
// A template appears by one rename. Machines of this package have ids and no records: start-up
// finds them by their directories and tears them down.
//
// # Locks
//
// builder.making is held while a template is made. Pool.mu and the mutexes of queue and standby are
// leaves and are never held during I/O. Two leaves are held during short I/O: shelf.counting while
// one small file is opened, and marks.mu while the time of a directory is set.
package template

import (
	"context"
	"errors"
	"sync"

	"banger/internal/machine"
	"banger/internal/model"
)

// Pool holds the templates of one home, and the machines on standby.
// Its methods are safe for concurrent use.
type Pool struct {
	Config
	shelf   *shelf
	queue   *queue
	builder *builder
	standby *standby

	wg   sync.WaitGroup
	life context.Context // ends at Close
	end  context.CancelFunc

	mu     sync.Mutex         // a leaf
	endJob context.CancelFunc // of the background job under way; nil if there is none
}

// New returns a pool. It is off if the host's default driver cannot restore machines.
func New(host *machine.Host, cfg Config) *Pool {
	if _, err := machine.Restorer(host.Drivers.Default()); err != nil {
		cfg.Off = true
	}
	if cfg.Room == nil {
		cfg.Room = func() error { return nil }
	}
	p := &Pool{Config: cfg, shelf: &shelf{host: host, log: host.Log}, queue: newQueue()}
	p.builder = &builder{cfg: &p.Config, shelf: p.shelf, queue: p.queue, making: make(chan struct{}, 1)}
	p.standby = &standby{builder: p.builder, ready: map[string][]*machine.Standby{}}
	p.shelf.beforeRemove = p.standby.end
	p.life, p.end = context.WithCancel(context.Background())
	return p
}

// Run begins to make wanted templates in the background, until Close.
func (p *Pool) Run() {
	if !p.Off {
		p.wg.Go(func() { p.work(p.life) })
	}
}

// Close ends the background work and the machines on standby.
func (p *Pool) Close() {
	p.end()
	p.wg.Wait()
	p.standby.end(context.Background(), "")
}

// Choose is the machine.Chooser of VMs: the best template that there is, or nil for a boot.
func (p *Pool) Choose(ctx context.Context, l *machine.Launch) machine.Source {
	if p.Off {
		return nil
	}
	if !hasDisks(p.shelf.host, l.Subject) {
		for _, key := range fitting(l.Fingerprint, l.Subject.Spec, p.Usual) {
			if t, err := p.shelf.open(ctx, key); err == nil {
				t.Image = l.Subject.Spec.Image
				return t
			}
		}
	}
	if t, err := p.shelf.open(ctx, universalKeyOf(l.Fingerprint)); err == nil {
		return t
	}
	return nil
}

// hasDisks reports whether a VM has something on its disks that it must keep.
func hasDisks(h *machine.Host, s machine.Subject) bool {
	disks := machine.Disks(h.Layout.VM(s.ID))
	return disks[machine.WorkDisk] != "" || disks[machine.SystemDisk] != "" && s.ServesDisk(s.Spec.ImageID)
}

// Started notes each start of a VM that has succeeded: what it did not find is made for the next
// one.
func (p *Pool) Started(l *machine.Launch) {
	if p.Off || l.Fingerprint == "" || forced(l) {
		return
	}
	if key := l.Template(); key != "" {
		p.served(key)
	}
	j := job{spec: l.Subject.Spec, fingerprint: l.Fingerprint}
	if !l.Restored() {
		j.key = universalKeyOf(l.Fingerprint)
		p.queue.want(j)
	}
	_, taken := l.Source.(*machine.Standby)
	// it had disks of its own, so it could not use the image's template
	if !l.FreshDisks && !taken {
		return
	}
	j.key = imageKeyOf(l.Fingerprint, j.spec)
	if l.Template() != j.key { // one with smaller disks will do, but not for long
		p.queue.want(j)
	}
	if p.Config.Standby > 0 {
		j.standby = true
		p.queue.want(j)
	}
}

func forced(l *machine.Launch) bool {
	b, ok := l.Source.(machine.Boot)
	return ok && b.Forced
}

// Failed judges the template of a VM's launch that failed, and reports whether a boot may succeed
// instead. A template that is removed is made again at once. If it does not work again, it is made
// after a while, like one that could not be made.
func (p *Pool) Failed(ctx context.Context, l *machine.Launch, err error) bool {
	return p.builder.failed(ctx, l, err) != machine.NoBlame
}

// served notes a start that has succeeded from a template.
func (p *Pool) served(key string) {
	p.queue.served(key)
	if err := p.shelf.countUse(key); err != nil && !errors.Is(err, errGone) {
		p.shelf.log.Warn("counting the use of a template", "template", key, "error", err)
	}
}

// Take returns a machine on standby for a VM with this spec; nil if there is none. Whoever takes a
// machine starts it, or gives it to Release.
func (p *Pool) Take(ctx context.Context, spec model.Spec) *machine.Standby {
	if p.Off {
		return nil
	}
	return p.standby.take(ctx, spec)
}

// Release ends a machine that was taken and is not used, and removes its files.
func (p *Pool) Release(ctx context.Context, m *machine.Standby) error {
	return p.standby.release(ctx, m)
}

// work does the wanted jobs, one at a time and in the user's pauses, until ctx ends.
func (p *Pool) work(ctx context.Context) {
	for {
		select {
		case <-p.queue.wake:
		case <-ctx.Done():
			return
		}
		for j, ok := p.queue.next(); ok && ctx.Err() == nil; j, ok = p.queue.next() {
			if err := p.Quiet(ctx, quietTime); err != nil {
				return
			}
			p.do(ctx, j)
		}
	}
}

// GiveWay ends the background job under way and the machines on standby, because the host lacks
// space.
func (p *Pool) GiveWay(ctx context.Context) {
	p.mu.Lock()
	if p.endJob != nil {
		p.endJob()
	}
	p.mu.Unlock()
	p.standby.end(ctx, "")
}

func (p *Pool) setJob(end context.CancelFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endJob = end
}

// do does one job, and notes a failure.
func (p *Pool) do(ctx context.Context, j job) {
	do := p.builder.ensure
	if j.standby {
		do = p.standby.fill
	}
	if b := p.builder; b.permit(j) != nil { // looked into again at each start, which is cheap
		return
	}
	jobCtx, end := context.WithCancel(ctx)
	defer end()
	p.setJob(end)
	defer p.setJob(nil)
	err := p.Room()
	if err == nil {
		err = do(jobCtx, j)
	}
	if err != nil && ctx.Err() == nil {
		if p.builder.permit(j) != nil {
			p.shelf.log.InfoContext(ctx, "no template is made of an image", "image", j.spec.Image, "error", err)
			return
		}
		again := p.queue.setBack(j.name())
		p.shelf.log.WarnContext(ctx, "a template could not be made; VMs continue to boot", "template", j.key, "again", again, "error", err)
	}
}
