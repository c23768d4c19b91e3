package template

import (
	"context"
	"slices"
	"strings"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// Stored lists the templates on disk, in no order.
func (p *Pool) Stored(ctx context.Context) ([]Stored, error) {
	list, err := p.shelf.list(ctx)
	for i := range list {
		list[i].Standby = p.standby.count(list[i].Key)
	}
	return list, err
}

// List returns all templates, the most recently used first, after the one that is being made.
func (p *Pool) List(ctx context.Context) ([]model.Template, error) {
	// first: otherwise one that is completed meanwhile would be missed
	building := p.queue.underWay()
	stored, err := p.Stored(ctx)
	if err != nil {
		return nil, err
	}
	var list []model.Template
	for _, t := range stored {
		list = append(list, t.Template)
	}
	slices.SortFunc(list, func(a, b model.Template) int { return b.LastUsed.Compare(a.LastUsed) })
	if building != nil && !slices.ContainsFunc(list, func(t model.Template) bool { return t.Key == building.Key }) {
		list = slices.Insert(list, 0, *building)
	}
	return list, nil
}

// Get returns the template whose key begins with ref, or that of the image that ref means now.
// imageID is that image's id, or "". The name in a template may have moved to another image.
func (p *Pool) Get(ctx context.Context, ref, imageID string) (model.Template, error) {
	list, err := p.List(ctx)
	if err != nil {
		return model.Template{}, err
	}
	var found []model.Template
	for _, t := range list {
		if ref != "" && strings.HasPrefix(t.Key, ref) || imageID != "" && t.ImageID == imageID {
			found = append(found, t)
		}
	}
	switch len(found) {
	case 0:
		return model.Template{}, fault.New(fault.NotFound, "no template %q", ref).
			WithHint("`banger template list` shows the templates there are")
	case 1:
		return found[0], nil
	}
	return model.Template{}, fault.New(fault.Invalid, "%q means %d templates", ref, len(found)).WithHint("give more of the key")
}

// Delete removes the template that Get returns. VMs that were restored from it are not affected.
func (p *Pool) Delete(ctx context.Context, ref, imageID string) (model.Template, error) {
	t, err := p.Get(ctx, ref, imageID)
	if err != nil {
		return t, err
	}
	if t.Building {
		return t, fault.New(fault.WrongState, "template %s is being made", t.Key).
			WithHint("wait until it is there: see `banger template list`")
	}
	return t, p.shelf.remove(ctx, t.Key)
}

// Prune removes all templates. With stale it removes only those whose image or kernel is gone, so
// that no start will find them.
func (p *Pool) Prune(ctx context.Context, stale bool) (model.Pruned, error) {
	return p.shelf.prune(ctx, stale)
}

// Build makes the templates that a VM with this spec would be restored from, unless they exist. The
// spec is complete. A template may already be evicted again, or be made once more in the
// background.
func (p *Pool) Build(ctx context.Context, spec model.Spec, report step.Reporter) ([]model.Template, error) {
	if err := p.CheckOn(); err != nil {
		return nil, err
	}
	fingerprint, err := p.builder.fingerprint(ctx, spec)
	if err != nil {
		return nil, err
	}
	j := job{spec: spec, fingerprint: fingerprint, urgent: true}
	keys := []string{universalKeyOf(fingerprint), imageKeyOf(fingerprint, spec)}
	for _, j.key = range keys {
		end := report.Track("template", j.key)
		err := p.builder.ensure(ctx, j)
		end(err)
		if err != nil {
			return nil, err
		}
	}
	var made []model.Template
	for _, j.key = range keys {
		t, err := p.shelf.describe(ctx, j.key)
		switch {
		case err == nil:
			t.Standby = p.standby.count(j.key)
			made = append(made, t.Template)
		case fault.KindOf(err) != fault.NotFound:
			return made, err
		case p.queue.wants(j.key):
			made = append(made, *j.beingMade())
		}
	}
	return made, nil
}

// CheckOn fails if templates are off.
func (p *Pool) CheckOn() error {
	if !p.Off {
		return nil
	}
	return fault.New(fault.Unsupported, "templates are off, or the driver %s cannot save machines", p.shelf.host.Drivers.Default().Name()).
		WithHint("`banger config show` tells where they were turned off")
}

// Measure adds what the templates take up. A stale one can be reclaimed.
func (p *Pool) Measure(ctx context.Context, t *disk.Tally) error {
	list, err := p.Stored(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, stored := range list {
		known[stored.Key] = true
		row, err := t.Add(model.UsageTemplate, stored.Key, stored.Dir)
		if err != nil {
			return err
		}
		if !stored.Current {
			row.Reclaimable = row.Own
		}
	}
	return t.AddRest(p.shelf.host.Layout.Templates(), known)
}

// Keys lists the templates of an image.
func (p *Pool) Keys(ctx context.Context, imageID string) (keys []string, _ error) {
	list, err := p.shelf.list(ctx)
	for _, t := range list {
		if t.ImageID == imageID {
			keys = append(keys, t.Key)
		}
	}
	return keys, err
}

// Forget removes the templates of an image.
func (p *Pool) Forget(ctx context.Context, imageID string) error {
	keys, err := p.Keys(ctx, imageID)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := p.shelf.remove(ctx, key); err != nil {
			return err
		}
	}
	return nil
}
