package record

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vm/explain"
)

// Index has all entries. It is safe for concurrent use.
type Index struct {
	store Store
	log   *slog.Logger

	mu  sync.RWMutex
	vms map[string]*Entry // by id
}

// New returns an index without entries.
func New(store Store, log *slog.Logger) *Index {
	return &Index{store: store, log: log, vms: map[string]*Entry{}}
}

// Load enters all stored records. Each is shown as recovering until Recovered is called.
func (r *Index) Load(ctx context.Context) ([]*Entry, error) {
	stored, err := r.store.VMs(ctx)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	entries := make([]*Entry, len(stored))
	for i, v := range stored {
		entries[i] = &Entry{store: r.store, log: r.log, vm: v, recovering: true}
		r.vms[v.ID] = entries[i]
	}
	return entries, nil
}

// Draft returns an entry for a new VM. Add enters it, and its first Update stores it.
func (r *Index) Draft(v model.VM) *Entry { return &Entry{store: r.store, log: r.log, vm: v} }

// Add enters a new entry under a name, or under a random one for "". Its operation lock is held.
func (r *Index) Add(e *Entry, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if name == "" {
		name = model.NewName(func(n string) bool { return r.byNameLocked(n) != nil })
	} else if other := r.byNameLocked(name); other != nil {
		return explain.NameTaken(other.Record())
	}
	e.Show(func(v *model.VM) { v.Spec.Name = name })
	r.vms[e.Record().ID] = e
	return nil
}

// Delete removes a record from the store and its entry from the index. Whoever waits for its
// operation lock learns that the VM is gone.
func (r *Index) Delete(ctx context.Context, e *Entry) error {
	id := e.Record().ID
	if err := r.store.DeleteVM(ctx, id); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.vms, id)
	e.Lock.Close()
	return nil
}

// List returns all records as seen by look, the oldest first.
func (r *Index) List(look func(*Entry) model.VM) []model.VM {
	entries := r.Entries()
	vms := make([]model.VM, 0, len(entries))
	for _, e := range entries {
		vms = append(vms, look(e))
	}
	slices.SortFunc(vms, func(a, b model.VM) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
	return vms
}

// Entries returns all entries in no order.
func (r *Index) Entries() []*Entry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Collect(maps.Values(r.vms))
}

// Find returns the entry that ref means: an id, a name, or the beginning of one id.
func (r *Index) Find(ref string) (*Entry, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	found := model.Lookup(ref, maps.Values(r.vms), func(e *Entry) (id, name string) {
		v := e.Record()
		return v.ID, v.Spec.Name
	})
	switch len(found) {
	case 0:
		return nil, fault.New(fault.NotFound, "no VM named %q", ref).WithHint("`banger vm list` shows the VMs there are")
	case 1:
		return found[0], nil
	}
	return nil, fault.New(fault.Invalid, "id prefix %q means %d VMs", ref, len(found)).WithHint("give more digits, or the name")
}

func (r *Index) byNameLocked(name string) *Entry {
	for _, e := range r.vms {
		if e.Record().Spec.Name == name {
			return e
		}
	}
	return nil
}

// Has reports whether a VM has the id.
func (r *Index) Has(id string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.vms[id] != nil
}

// CheckNameFree fails if a VM has the name.
func (r *Index) CheckNameFree(name string) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if e := r.byNameLocked(name); e != nil {
		return explain.NameTaken(e.Record())
	}
	return nil
}

// AnyFree fails if all names are taken; "" is a random one.
func (r *Index) AnyFree(names []string) error {
	var first error
	for _, name := range names {
		var err error
		if name != "" {
			err = r.CheckNameFree(name)
		}
		if err == nil {
			return nil
		}
		first = cmp.Or(first, err)
	}
	return first
}
