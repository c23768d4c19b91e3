package template

import (
	"context"
	"os"

	"banger/internal/machine"
)

// Keep is the machine.Keeper of VMs: if there is no universal template, it makes one of the machine
// that boots. That takes a tenth of a second. A boot in the background would take seconds from the
// user's next commands. A guest that has looked at disks with content is not kept.
func (p *Pool) Keep(ctx context.Context, l *machine.Launch) {
	if p.Off || p.BuildsOnly || l.Fingerprint == "" || l.Restored() || forced(l) || !l.FreshDisks || p.Room() != nil {
		return
	}
	j := job{key: universalKeyOf(l.Fingerprint), spec: l.Subject.Spec, fingerprint: l.Fingerprint}
	if _, err := os.Stat(p.shelf.dir(j.key)); err == nil || p.queue.isSetBack(j) {
		return
	}
	select {
	case p.builder.making <- struct{}{}:
	default: // one is being made
		return
	}
	p.queue.setUnderWay(j.beingMade())
	c, err := p.builder.capture(ctx, j, l, false)
	if err != nil {
		p.kept(ctx, j, err)
		return
	}
	p.wg.Go(func() { p.kept(p.life, j, c.commit(p.life)) }) // until then ensure waits
}

// kept ends what Keep has begun.
func (p *Pool) kept(ctx context.Context, j job, err error) {
	defer func() { <-p.builder.making }()
	p.queue.setUnderWay(nil)
	log := p.shelf.log.With("template", j.key)
	if err != nil {
		log.WarnContext(ctx, "a machine that boots could not be kept as a template", "error", err)
		return
	}
	log.InfoContext(ctx, "kept a machine that boots as a template", "vcpus", j.spec.VCPUs, "memory", j.spec.Memory)
	p.shelf.markUsed(ctx, j.key)
	p.shelf.evict(ctx, p.Budget)
}
