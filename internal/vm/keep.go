package vm

import (
	"context"
	"os"
)

// keep makes the universal template of the very machine that is booting, when there is none: its agent has just answered, and its guest knows nothing of
// the VM yet. That holds the boot up for about a tenth of a second; a boot in the background takes seconds from whatever the user does next, and
// the next start comes before its end. A machine with disks that had been written to before is not taken, as its guest has looked at them. Nothing
// of this is worth a failed start.
func (s *start) keep(ctx context.Context) error {
	t := s.m.templates
	if t.Off || t.keepsNone || s.fingerprint == "" || s.from.cold || s.from.Kind != "" || !s.fresh {
		return nil
	}
	j := job{key: keyOf(universalKey, s.fingerprint), spec: s.vm().Spec, fingerprint: s.fingerprint}
	if _, err := os.Stat(t.dir(j.key)); err == nil || t.isSetBack(j) {
		return nil
	}
	select {
	case t.making <- struct{}{}:
	default: // one is being made
		return nil
	}
	tpl := j.beingMade()
	t.setUnderWay(&tpl)
	b := t.newBuild(j)
	b.live = s.live
	draft, err := b.capture(ctx, false)
	if err != nil {
		t.kept(ctx, j, err)
		return nil
	}
	s.m.wg.Go(func() { t.kept(s.m.life, j, b.commit(s.m.life, draft)) }) // until then ensure waits, and nobody else makes it
	return nil
}

// kept ends what keep has begun.
func (t *templates) kept(ctx context.Context, j job, err error) {
	defer func() { <-t.making }()
	t.setUnderWay(nil)
	log := t.m.Log.With("template", j.key)
	if err != nil {
		log.WarnContext(ctx, "a machine that boots could not be kept as a template", "error", err)
		return
	}
	log.InfoContext(ctx, "kept a machine that boots as a template", "vcpus", j.spec.VCPUs, "memory", j.spec.Memory)
	t.evict(ctx)
}
