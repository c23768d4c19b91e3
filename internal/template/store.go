package template

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/regular"
	"banger/internal/snapshot"
)

// shelf holds the templates on disk. Its methods are safe for concurrent use.
type shelf struct {
	host         *machine.Host
	log          *slog.Logger
	beforeRemove func(ctx context.Context, key string) // ends what depends on a template
	marks        marks
	counting     sync.Mutex // held while a file of uses is opened
}

func (s *shelf) dir(key string) string { return filepath.Join(s.host.Layout.Templates(), key) }

// open opens a template. A damaged one is removed.
func (s *shelf) open(ctx context.Context, key string) (*machine.Template, error) {
	dir := s.dir(key)
	snap, err := snapshot.Open(ctx, dir)
	t := &machine.Template{Key: key, Universal: strings.HasPrefix(key, universalKey)}
	if err == nil {
		err = t.Open(snap)
	}
	if err != nil {
		if fault.KindOf(err) != fault.NotFound {
			s.log.WarnContext(ctx, "a template is damaged", "template", key, "error", err)
			s.drop(ctx, key)
		}
		return nil, err
	}
	if t.Disks = machine.SavedDisks(snap); len(t.Disks) > 0 {
		t.Mounted = snap.Meta().Spec
	}
	s.markUsed(ctx, key)
	return t, nil
}

// markUsed makes a template the one that was used last. The least recently used is evicted first.
func (s *shelf) markUsed(ctx context.Context, key string) {
	if err := s.marks.set(s.dir(key)); err != nil {
		s.log.WarnContext(ctx, "noting the use of a template", "template", key, "error", err)
	}
}

// remove removes a template. Machines that run on its memory keep it until they end.
func (s *shelf) remove(ctx context.Context, key string) error {
	s.beforeRemove(ctx, key)
	return snapshot.Remove(s.dir(key))
}

// Stored is a template on disk.
type Stored struct {
	model.Template
	Dir     string
	Current bool      // its image and kernel exist, so that a start may find it
	touched time.Time // when a start, a build or standby last restored it
}

// list returns the templates on disk, in no order. A damaged one is left out: it is removed when
// a start wants to use it.
func (s *shelf) list(ctx context.Context) ([]Stored, error) {
	entries, err := os.ReadDir(s.host.Layout.Templates())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listing templates: %w", err)
	}
	var list []Stored
	for _, entry := range entries {
		if !keyPattern.MatchString(entry.Name()) {
			continue
		}
		if t, err := s.describe(ctx, entry.Name()); err == nil {
			list = append(list, t)
		}
	}
	return list, nil
}

func (s *shelf) describe(ctx context.Context, key string) (Stored, error) {
	snap, err := snapshot.Open(ctx, s.dir(key))
	if err != nil {
		return Stored{}, err
	}
	info, err := os.Stat(s.dir(key))
	if err != nil {
		return Stored{}, err
	}
	usage, err := snap.Usage()
	if err != nil {
		return Stored{}, err
	}
	t := Stored{Template: describe(key, snap.Meta().Spec, snap.Meta().Created), Dir: s.dir(key), touched: info.ModTime()}
	t.Size = usage.Allocated
	t.Current = s.current(t.Template)
	if uses, err := os.Stat(s.uses(key)); err == nil {
		t.Uses, t.LastUsed = int(uses.Size()), uses.ModTime()
	}
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
func (s *shelf) current(t model.Template) bool {
	if _, err := s.host.Kernels.ByID(t.KernelID); err != nil {
		return false
	}
	if t.ImageID == "" {
		return true
	}
	_, err := s.host.Images.ByID(t.ImageID)
	return err == nil
}

// uses is a file whose size is the number of VMs that were restored from a template. So counting is
// one write, without reading. It is not synced, which a start would wait for.
func (s *shelf) uses(key string) string { return filepath.Join(s.dir(key), "uses") }

var errGone = errors.New("the template was removed meanwhile")

func (s *shelf) countUse(key string) error {
	f, err := s.openUses(key)
	if errors.Is(err, os.ErrNotExist) {
		return errGone
	}
	if err != nil {
		return err
	}
	_, err = f.Write([]byte{'.'})
	// A new file has given the directory the time of a clock that may have been set back.
	return errors.Join(err, f.Close(), s.marks.set(s.dir(key)))
}

// openUses opens the file for one more use. In a cache that was copied with hard links, the file is
// another home's, too. Then the home first replaces it by one of its own.
func (s *shelf) openUses(key string) (*os.File, error) {
	s.counting.Lock()
	defer s.counting.Unlock()
	const flags = os.O_WRONLY | os.O_APPEND | os.O_CREATE
	f, err := regular.OpenFile(s.uses(key), flags, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if info.Sys().(*syscall.Stat_t).Nlink < 2 { // os.File.Stat returns this type on Linux
		return f, nil
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	own := s.uses(key) + ".new" // only its size counts
	if f, err = regular.OpenFile(own, flags|os.O_TRUNC, 0o600); err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(info.Size()), os.Rename(own, s.uses(key))); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// prune removes all templates, or only the stale ones, whose image or kernel is gone.
func (s *shelf) prune(ctx context.Context, stale bool) (model.Pruned, error) {
	pruned := model.Pruned{Removed: []string{}}
	list, err := s.list(ctx)
	if err != nil {
		return pruned, err
	}
	var errs []error
	for _, t := range list {
		if stale && t.Current {
			continue
		}
		if err := s.remove(ctx, t.Key); err != nil {
			errs = append(errs, err)
			continue
		}
		pruned.Removed = append(pruned.Removed, t.Key)
		pruned.Freed += t.Size
	}
	return pruned, errors.Join(errs...)
}

// drop is remove for callers that can do nothing about a failure.
func (s *shelf) drop(ctx context.Context, key string) {
	if err := s.remove(ctx, key); err != nil {
		s.log.ErrorContext(ctx, "removing a template", "template", key, "error", err)
	}
}

// evict keeps the templates within their budget: stale ones go first, then the least recently used.
// One template alone may be larger than the budget.
func (s *shelf) evict(ctx context.Context, budget model.Bytes) {
	if _, err := s.prune(ctx, true); err != nil {
		s.log.ErrorContext(ctx, "removing stale templates", "error", err)
	}
	list, err := s.list(ctx)
	if err != nil {
		s.log.ErrorContext(ctx, "measuring the templates", "error", err)
		return
	}
	slices.SortFunc(list, func(a, b Stored) int { return b.touched.Compare(a.touched) })
	var sum model.Bytes
	for i, t := range list {
		if sum += t.Size; budget == 0 || sum <= budget || i == 0 {
			continue
		}
		sum -= t.Size
		s.log.InfoContext(ctx, "evicting a template, to keep the budget", "template", t.Key, "used", t.touched)
		s.drop(ctx, t.Key)
	}
}
