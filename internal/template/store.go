package template

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/snapshot"
)

// open opens a template. A damaged one is removed.
func (p *Pool) open(ctx context.Context, key string) (*machine.Template, error) {
	dir := p.dir(key)
	snap, err := snapshot.Open(ctx, dir)
	t := &machine.Template{Key: key, Universal: strings.HasPrefix(key, universalKey)}
	if err == nil {
		err = t.Open(snap)
	}
	if err != nil {
		if fault.KindOf(err) != fault.NotFound {
			p.log.WarnContext(ctx, "a template is damaged", "template", key, "error", err)
			p.drop(ctx, key)
		}
		return nil, err
	}
	if t.Disks = machine.SavedDisks(snap); len(t.Disks) > 0 {
		t.Mounted = snap.Meta().Spec
	}
	now := time.Now()
	if err := os.Chtimes(dir, now, now); err != nil { // the least recently used is evicted first
		p.log.WarnContext(ctx, "noting the use of a template", "template", key, "error", err)
	}
	return t, nil
}

// remove ends the machines on standby from a template and removes it.
func (p *Pool) remove(ctx context.Context, key string) error {
	p.endStandby(ctx, key)
	return snapshot.Remove(p.dir(key))
}

// Stored is a template on disk.
type Stored struct {
	model.Template
	Dir     string
	Current bool      // its image and kernel exist, so that a start may find it
	touched time.Time // when a start, a build or standby last restored it
}

// Stored lists the templates on disk, in no order. A damaged one is left out: it is removed when
// a start wants to use it.
func (p *Pool) Stored(ctx context.Context) ([]Stored, error) {
	entries, err := os.ReadDir(p.host.Layout.Templates())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listing templates: %w", err)
	}
	var list []Stored
	for _, entry := range entries {
		if !keyPattern.MatchString(entry.Name()) {
			continue
		}
		if t, err := p.describe(ctx, entry.Name()); err == nil {
			list = append(list, t)
		}
	}
	return list, nil
}

func (p *Pool) describe(ctx context.Context, key string) (Stored, error) {
	snap, err := snapshot.Open(ctx, p.dir(key))
	if err != nil {
		return Stored{}, err
	}
	info, err := os.Stat(p.dir(key))
	if err != nil {
		return Stored{}, err
	}
	usage, err := snap.Usage()
	if err != nil {
		return Stored{}, err
	}
	t := Stored{Template: describe(key, snap.Meta().Spec, snap.Meta().Created), Dir: p.dir(key), touched: info.ModTime()}
	t.Size = usage.Allocated
	t.Current = p.current(t.Template)
	if uses, err := os.Stat(p.uses(key)); err == nil {
		t.Uses, t.LastUsed = int(uses.Size()), uses.ModTime()
	}
	p.mu.Lock()
	t.Standby = len(p.ready[key])
	p.mu.Unlock()
	return t, nil
}

// describe returns what a key and a spec say of a template that nobody has used.
func describe(key string, spec model.Spec, created time.Time) model.Template {
	t := model.Template{
		Key: key, Kind: model.TemplateUniversal, Kernel: spec.Kernel, KernelID: spec.KernelID,
		VCPUs: spec.VCPUs, Memory: spec.Memory, Net: spec.Net, Created: created, LastUsed: created,
	}
	if strings.HasPrefix(key, imageKey) {
		t.Kind, t.Image, t.ImageID = model.TemplateImage, spec.Image, spec.ImageID
		t.DiskSize, t.WorkDiskSize = spec.DiskSize, spec.WorkDiskSize
	}
	return t
}

// current reports whether a template's image and kernel still exist.
func (p *Pool) current(t model.Template) bool {
	if _, err := p.host.Kernels.Get(t.KernelID); err != nil {
		return false
	}
	if t.ImageID == "" {
		return true
	}
	_, err := p.host.Images.Get(t.ImageID)
	return err == nil
}

// uses is a file whose size is the number of VMs that were restored from a template. So counting is
// one write, without a lock and without reading. It is not synced, which a start would wait for.
func (p *Pool) uses(key string) string { return filepath.Join(p.dir(key), "uses") }

var errGone = errors.New("the template was removed meanwhile")

func (p *Pool) countUse(key string) error {
	f, err := os.OpenFile(p.uses(key), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return errGone
	}
	if err != nil {
		return err
	}
	_, err = f.Write([]byte{'.'})
	return errors.Join(err, f.Close())
}

// List returns all templates, the most recently used first, after the one that is being made.
func (p *Pool) List(ctx context.Context) ([]model.Template, error) {
	building := p.underWay() // first: otherwise one that is completed meanwhile would be missed
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

// Get returns the template whose key begins with ref, or that of the image that ref names.
func (p *Pool) Get(ctx context.Context, ref string) (model.Template, error) {
	list, err := p.List(ctx)
	if err != nil {
		return model.Template{}, err
	}
	var found []model.Template
	for _, t := range list {
		if ref != "" && (strings.HasPrefix(t.Key, ref) || t.Image == ref) {
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

// Delete removes a template. VMs that were restored from it are not affected.
func (p *Pool) Delete(ctx context.Context, ref string) (model.Template, error) {
	t, err := p.Get(ctx, ref)
	if err != nil {
		return t, err
	}
	if t.Building {
		return t, fault.New(fault.WrongState, "template %s is being made", t.Key).
			WithHint("wait until it is there: see `banger template list`")
	}
	return t, p.remove(ctx, t.Key)
}

// Prune removes all templates. With stale it removes only those whose image or kernel is gone, so
// that no start will find them.
func (p *Pool) Prune(ctx context.Context, stale bool) (model.Pruned, error) {
	pruned := model.Pruned{Removed: []string{}}
	list, err := p.Stored(ctx)
	if err != nil {
		return pruned, err
	}
	var errs []error
	for _, t := range list {
		if stale && t.Current {
			continue
		}
		if err := p.remove(ctx, t.Key); err != nil {
			errs = append(errs, err)
			continue
		}
		pruned.Removed = append(pruned.Removed, t.Key)
		pruned.Freed += t.Size
	}
	return pruned, errors.Join(errs...)
}

// evict keeps the templates within their budget: stale ones go first, then the least recently used.
// One template alone may be larger than the budget.
func (p *Pool) evict(ctx context.Context) {
	if _, err := p.Prune(ctx, true); err != nil {
		p.log.ErrorContext(ctx, "removing stale templates", "error", err)
	}
	list, err := p.Stored(ctx)
	if err != nil {
		p.log.ErrorContext(ctx, "measuring the templates", "error", err)
		return
	}
	slices.SortFunc(list, func(a, b Stored) int { return b.touched.Compare(a.touched) })
	var sum model.Bytes
	for i, t := range list {
		if sum += t.Size; p.Budget == 0 || sum <= p.Budget || i == 0 {
			continue
		}
		sum -= t.Size
		p.log.InfoContext(ctx, "evicting a template, to keep the budget", "template", t.Key, "used", t.touched)
		p.drop(ctx, t.Key)
	}
}
