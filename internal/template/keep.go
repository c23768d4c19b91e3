package template

import (
	"context"
	"os"

	"banger/internal/machine"
)

// Keep is the machine.Keeper of VMs: it makes the universal template of the very machine that boots,
// if there is none. That takes a tenth of a second, where a boot in the background takes seconds from
// the user's next commands. A machine with disks that were written before is not kept: its guest has
// looked at them.
func (p *Pool) Keep(ctx context.Context, l *machine.Launch) {
	if p.Off || p.BuildsOnly || l.Fingerprint == "" || l.Restored() || forced(l) || !l.FreshDisks {
		return
	}
	j := job{key: universalKeyOf(l.Fingerprint), spec: l.Subject.Spec, fingerprint: l.Fingerprint}
	if _, err := os.Stat(p.dir(j.key)); err == nil || p.isSetBack(j) {
		return
	}
	select {
	case p.making <- struct{}{}:
	default: // one is being made
		return
	}
	p.setUnderWay(j.beingMade())
	c, err := p.capture(ctx, j, l, false)
	if err != nil {
		p.kept(ctx, j, err)
		return
	}
	p.wg.Go(func() { p.kept(p.life, j, c.commit(p.life)) }) // until then ensure waits
}

// kept ends what Keep has begun.
func (p *Pool) kept(ctx context.Context, j job, err error) {
	defer func() { <-p.making }()
	p.setUnderWay(nil)
	log := p.log.With("template", j.key)
	if err != nil {
		log.WarnContext(ctx, "a machine that boots could not be kept as a template", "error", err)
		return
	}
	log.InfoContext(ctx, "kept a machine that boots as a template", "vcpus", j.spec.VCPUs, "memory", j.spec.Memory)
	p.evict(ctx)
}
