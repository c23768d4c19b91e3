package vm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/snapshot"
	"banger/internal/vmm"
)

// TemplateConfig says what templates a manager keeps.
type TemplateConfig struct {
	Off    bool        // make none and use none
	Budget model.Bytes // of host disk that they may take up together; the least recently used go. 0 is no bound

	// Standby is how many machines wait, restored from each template that is in use, for a start that only has to give one an identity.
	Standby int
}

// templates keeps saved machines without an identity, so that a start can go on from one instead of booting. Nobody has to know of them: a start
// that found none has one made in the background (see queue.go), a broken one is thrown away.
//
// There are two kinds. A universal one is an agent that waits in the initramfs, no drive looked at: it serves any image on a machine of its
// shape. An image's own has the image and fresh disks mounted and its init up; it serves VMs that have no disks yet.
//
// A template's key is made of everything that would make it wrong: the driver's fingerprint of the machine (which covers the driver, the CPU, the
// kernel, the agent, and the machine's shape) and the image's id. So a template is right or not found, and what nobody finds any more grows old and goes.
//
// An image's is for one size of each disk, too. A guest can grow smaller ones, so one template with the smallest disks would serve all VMs, but that is
// no bargain: of a run of 0.3 s in emulation, growing to twice the size takes 0.4 s, and growing from 32 MiB 1.5 s.
type templates struct {
	m *Manager
	TemplateConfig

	mu        sync.Mutex
	wanted    []job              // builds to come, in order
	building  string             // key of the job that is next or under way
	beingMade *model.Template    // also when somebody waits for it; nil when none is
	setbacks  map[string]setback // by a job's name
	wake      chan struct{}
	making    chan struct{} // holds one while a template is made

	keepsNone bool // no machine that boots is kept; for tests of what is made in the background

	ready map[string][]*standby // machines on standby, by their template's key
}

// The first letters of keys.
const (
	universalKey = "u"
	imageKey     = "i"
)

var keyPattern = regexp.MustCompile(`^[ui][0-9a-f]{24}$`)

func newTemplates(m *Manager, cfg TemplateConfig) *templates {
	if _, ok := m.Driver.(vmm.Restorer); !ok {
		cfg.Off = true
	}
	return &templates{m: m, TemplateConfig: cfg, setbacks: map[string]setback{}, wake: make(chan struct{}, 1), making: make(chan struct{}, 1), ready: map[string][]*standby{}}
}

func keyOf(kind string, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return kind + hex.EncodeToString(sum[:12])
}

// imageKeyOf is the key of the image's template for VMs with this spec.
func imageKeyOf(fingerprint string, spec model.Spec) string {
	size := func(b model.Bytes) string { return strconv.FormatInt(int64(b), 10) }
	return keyOf(imageKey, fingerprint, spec.ImageID, size(spec.DiskSize), size(spec.WorkDiskSize))
}

// fitting lists the keys of the image's templates that a VM with this spec can go on from, the best first: its own, and as long as there is none that of
// VMs with disks of the usual sizes, if those are smaller. To grow its disks takes no longer than to begin with empty ones, and then to wait for an init.
func (t *templates) fitting(fingerprint string, spec model.Spec) []string {
	usual := spec
	usual.DiskSize = min(spec.DiskSize, t.m.Defaults.DiskSize)
	if t.m.Defaults.WorkDiskSize != 0 { // whether there is a work disk at all is in the fingerprint
		usual.WorkDiskSize = min(spec.WorkDiskSize, t.m.Defaults.WorkDiskSize)
	}
	if spec.DiskSize > disk.GrowsTo(usual.DiskSize) || spec.WorkDiskSize > disk.GrowsTo(usual.WorkDiskSize) {
		usual = spec
	}
	return slices.Compact([]string{imageKeyOf(fingerprint, spec), imageKeyOf(fingerprint, usual)})
}

func (t *templates) dir(key string) string { return filepath.Join(t.m.Layout.Templates(), key) }

// choose returns the best template there is for a start, or a cold boot.
func (t *templates) choose(ctx context.Context, s *start) origin {
	if t.Off {
		return origin{}
	}
	if spec := s.vm().Spec; !s.hasDisks() {
		for _, key := range t.fitting(s.fingerprint, spec) {
			if o, err := t.open(ctx, key); err == nil {
				o.Kind, o.Name = model.FromTemplate, spec.Image
				return o
			}
		}
	}
	if o, err := t.open(ctx, keyOf(universalKey, s.fingerprint)); err == nil {
		o.Kind = model.FromUniversal
		return o
	}
	return origin{}
}

// open opens a template. A damaged one is thrown away.
func (t *templates) open(ctx context.Context, key string) (origin, error) {
	dir := t.dir(key)
	snap, err := snapshot.Open(ctx, dir)
	o := origin{template: true, Origin: model.Origin{Of: key}}
	if err == nil {
		err = o.open(snap)
	}
	if err != nil {
		if fault.KindOf(err) != fault.NotFound {
			t.m.Log.WarnContext(ctx, "a template is damaged", "template", key, "error", err)
			t.drop(ctx, key)
		}
		return origin{}, err
	}
	if o.disks = disksIn(snap); len(o.disks) > 0 {
		o.made = snap.Meta().Spec
	}
	now := time.Now()
	if err := os.Chtimes(dir, now, now); err != nil { // how long ago it was used decides what goes first
		t.m.Log.WarnContext(ctx, "noting the use of a template", "template", key, "error", err)
	}
	return o, nil
}

// failed throws a template away that did not work. It is made again at once, and when that does not work either, like one that could not be made.
func (t *templates) failed(ctx context.Context, key string) {
	t.mu.Lock()
	if t.setbacks[key].broke {
		t.setBackLocked(key)
	}
	s := t.setbacks[key]
	s.broke = true
	t.setbacks[key] = s
	t.mu.Unlock()
	t.drop(ctx, key)
}

// drop throws a template away. Machines that run on its memory keep it until they end.
func (t *templates) drop(ctx context.Context, key string) {
	if err := t.remove(ctx, key); err != nil {
		t.m.Log.ErrorContext(ctx, "removing a template", "template", key, "error", err)
	}
}

// remove is drop for who can do something about its failure.
func (t *templates) remove(ctx context.Context, key string) error {
	t.endStandby(ctx, key)
	return snapshot.Remove(t.dir(key))
}

// stored is a template that is there.
type stored struct {
	model.Template
	touched time.Time // when a start, a build or standby last went on from it
}

// stored lists the templates that are there, in no order.
func (t *templates) stored(ctx context.Context) ([]stored, error) {
	entries, err := os.ReadDir(t.m.Layout.Templates())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listing templates: %w", err)
	}
	var list []stored
	for _, entry := range entries {
		if !keyPattern.MatchString(entry.Name()) {
			continue
		}
		if tpl, err := t.describe(ctx, entry.Name()); err == nil { // one that is damaged goes when somebody wants to use it
			list = append(list, tpl)
		}
	}
	return list, nil
}

// Templates lists the templates there are, the most recently used first, and before them the one that is being made.
func (m *Manager) Templates(ctx context.Context) ([]model.Template, error) {
	building := m.templates.underWay() // first: one that is finished meanwhile shall not be missed
	there, err := m.templates.stored(ctx)
	if err != nil {
		return nil, err
	}
	var list []model.Template
	for _, tpl := range there {
		list = append(list, tpl.Template)
	}
	slices.SortFunc(list, func(a, b model.Template) int { return b.LastUsed.Compare(a.LastUsed) })
	if building != nil && !slices.ContainsFunc(list, func(tpl model.Template) bool { return tpl.Key == building.Key }) {
		list = slices.Insert(list, 0, *building)
	}
	return list, nil
}

// underWay describes the template that is being made; nil when none is.
func (t *templates) underWay() *model.Template {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.beingMade
}

func (t *templates) setUnderWay(tpl *model.Template) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.beingMade = tpl
}

// Template returns the template whose key begins with ref, or that of the image that ref names.
func (m *Manager) Template(ctx context.Context, ref string) (model.Template, error) {
	list, err := m.Templates(ctx)
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
		return model.Template{}, fault.New(fault.NotFound, "no template %q", ref).WithHint("`banger template list` shows the templates there are")
	case 1:
		return found[0], nil
	}
	return model.Template{}, fault.New(fault.Invalid, "%q means %d templates", ref, len(found)).WithHint("give more of the key")
}

func (t *templates) describe(ctx context.Context, key string) (stored, error) {
	snap, err := snapshot.Open(ctx, t.dir(key))
	if err != nil {
		return stored{}, err
	}
	info, err := os.Stat(t.dir(key))
	if err != nil {
		return stored{}, err
	}
	usage, err := snap.Usage()
	if err != nil {
		return stored{}, err
	}
	tpl := stored{templateOf(key, snap.Meta().Spec, snap.Meta().Created), info.ModTime()}
	tpl.Size = usage.Allocated
	if uses, err := os.Stat(t.uses(key)); err == nil {
		tpl.Uses, tpl.LastUsed = int(uses.Size()), uses.ModTime()
	}
	t.mu.Lock()
	tpl.Standby = len(t.ready[key])
	t.mu.Unlock()
	return tpl, nil
}

// templateOf describes a template that nobody has used, apart from its size.
func templateOf(key string, spec model.Spec, created time.Time) model.Template {
	tpl := model.Template{
		Key: key, Kind: model.TemplateUniversal, Kernel: spec.Kernel, KernelID: spec.KernelID, VCPUs: spec.VCPUs, Memory: spec.Memory, Net: spec.Net,
		Created: created, LastUsed: created,
	}
	if strings.HasPrefix(key, imageKey) {
		tpl.Kind, tpl.Image, tpl.ImageID = model.TemplateImage, spec.Image, spec.ImageID
		tpl.DiskSize, tpl.WorkDiskSize = spec.DiskSize, spec.WorkDiskSize
	}
	return tpl
}

// uses is the file in a template's folder that counts the VMs that were forked from it: by its size, so that counting is one write that needs neither a
// lock nor what was written before. It is not synced, as a start would have to wait for that.
func (t *templates) uses(key string) string { return filepath.Join(t.dir(key), "uses") }

func (t *templates) countUse(key string) error {
	f, err := os.OpenFile(t.uses(key), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if errors.Is(err, os.ErrNotExist) { // the template went while the VM came up
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.Write([]byte{'.'})
	return errors.Join(err, f.Close())
}

// DeleteTemplate deletes a template. VMs that went on from it do not mind.
func (m *Manager) DeleteTemplate(ctx context.Context, ref string) (model.Template, error) {
	tpl, err := m.Template(ctx, ref)
	if err != nil {
		return tpl, err
	}
	if tpl.Building {
		return tpl, fault.New(fault.WrongState, "template %s is being made", tpl.Key).WithHint("wait until it is there: see `banger template list`")
	}
	return tpl, m.templates.remove(ctx, tpl.Key)
}

// PruneTemplates deletes all templates, or with stale only those that no start will find any more, because their image or kernel is gone.
func (m *Manager) PruneTemplates(ctx context.Context, stale bool) (model.Pruned, error) {
	pruned := model.Pruned{Removed: []string{}}
	list, err := m.templates.stored(ctx)
	if err != nil {
		return pruned, err
	}
	var errs []error
	for _, tpl := range list {
		if stale && m.templates.current(tpl.Template) {
			continue
		}
		if err := m.templates.remove(ctx, tpl.Key); err != nil {
			errs = append(errs, err)
			continue
		}
		pruned.Removed = append(pruned.Removed, tpl.Key)
		pruned.Freed += tpl.Size
	}
	return pruned, errors.Join(errs...)
}

// current tells whether a template's image and kernel are there still.
func (t *templates) current(tpl model.Template) bool {
	if _, err := t.m.Kernels.Get(tpl.KernelID); err != nil {
		return false
	}
	if tpl.ImageID == "" {
		return true
	}
	_, err := t.m.Images.Get(tpl.ImageID)
	return err == nil
}

// evict keeps the templates within their budget. What is in use least recently goes first, and what no start will find any more before anything else.
func (t *templates) evict(ctx context.Context) {
	if _, err := t.m.PruneTemplates(ctx, true); err != nil {
		t.m.Log.ErrorContext(ctx, "removing stale templates", "error", err)
	}
	list, err := t.stored(ctx)
	if err != nil {
		t.m.Log.ErrorContext(ctx, "looking at the templates' sizes", "error", err)
		return
	}
	slices.SortFunc(list, func(a, b stored) int { return b.touched.Compare(a.touched) })
	var sum model.Bytes
	for i, tpl := range list {
		if sum += tpl.Size; t.Budget == 0 || sum <= t.Budget || i == 0 { // one alone may be larger than the budget
			continue
		}
		sum -= tpl.Size
		t.m.Log.InfoContext(ctx, "a template goes, to keep the budget", "template", tpl.Key, "used", tpl.touched)
		t.drop(ctx, tpl.Key)
	}
}
