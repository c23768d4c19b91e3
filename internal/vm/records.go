package vm

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vm/explain"
)

// records is the index of all entries.
type records struct {
	mu  sync.RWMutex
	vms map[string]*entry // by id
}

// list returns all records as seen by look, the oldest first.
func (r *records) list(look func(*entry) model.VM) []model.VM {
	entries := r.entries()
	vms := make([]model.VM, 0, len(entries))
	for _, e := range entries {
		vms = append(vms, look(e))
	}
	slices.SortFunc(vms, func(a, b model.VM) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
	return vms
}

func (r *records) entries() []*entry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Collect(maps.Values(r.vms))
}

// find returns the entry that ref means: an id, a name, or the beginning of one id.
func (r *records) find(ref string) (*entry, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	found := model.Lookup(ref, maps.Values(r.vms), func(e *entry) (id, name string) {
		v := e.record()
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

func (r *records) byNameLocked(name string) *entry {
	for _, e := range r.vms {
		if e.record().Spec.Name == name {
			return e
		}
	}
	return nil
}

func (r *records) has(id string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.vms[id] != nil
}

func (r *records) checkNameFree(name string) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if e := r.byNameLocked(name); e != nil {
		return explain.NameTaken(e.record())
	}
	return nil
}

// add enters a new entry under a name, or under a random one for "". Its operation lock is held.
func (r *records) add(e *entry, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if name == "" {
		name = model.NewName(func(n string) bool { return r.byNameLocked(n) != nil })
	} else if other := r.byNameLocked(name); other != nil {
		return explain.NameTaken(other.record())
	}
	e.show(func(v *model.VM) { v.Spec.Name = name })
	r.vms[e.record().ID] = e
	return nil
}

// adopt enters an entry of a stored record.
func (r *records) adopt(e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.vms[e.record().ID] = e
}

// forget removes an entry. Whoever waits for its operation lock learns that the VM is gone.
func (r *records) forget(e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.vms, e.record().ID)
	e.lock.Close()
}

// anyFree fails if all names are taken; "" is a random one.
func (r *records) anyFree(names []string) error {
	var first error
	for _, name := range names {
		var err error
		if name != "" {
			err = r.checkNameFree(name)
		}
		if err == nil {
			return nil
		}
		first = cmp.Or(first, err)
	}
	return first
}
