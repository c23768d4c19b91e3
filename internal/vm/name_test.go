package vm

import (
	"sync"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

func TestNamesAndPrefixes(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "old"}) // a name that no id begins with
	_, err := d.Create(t.Context(), model.Create{Name: "old"}, nil)
	wantKind(t, "a second VM of the name", err, fault.Exists)
	h.wantCalls(t, "ensure image", 1) // for the first one alone
	if _, err := d.Create(t.Context(), model.Create{Name: "A b"}, nil); fault.KindOf(err) != fault.Invalid {
		t.Errorf("creating a VM with an invalid name returned %v", err)
	}
	if _, err := d.Rename(t.Context(), v.ID[:4], "new"); err != nil {
		t.Error(err)
	}
	if _, err := d.Get("old"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("looking up the old name returned %v", err)
	}
	d.create(t, model.Create{Name: "old"})
	if _, err := d.Rename(t.Context(), "old", "new"); fault.KindOf(err) != fault.Exists {
		t.Errorf("renaming to a taken name returned %v", err)
	}
	other, _ := d.find("old")
	if err := d.rewrite(t.Context(), other, func(o *model.VM) { o.Spec.Name = v.ID }); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Get(v.ID); err != nil || got.ID != v.ID {
		t.Errorf("an id that is also another VM's name must find its own VM, not %+v, %v", got, err)
	}
	if _, err := d.Create(t.Context(), model.Create{Name: v.ID}, nil); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a VM whose name is another one's id: %v", err)
	}
	if _, err := d.Rename(t.Context(), v.ID, other.Record().ID); fault.KindOf(err) != fault.Invalid {
		t.Errorf("renaming a VM to another one's id: %v", err)
	}
	// An older version has accepted the name, so the other VM keeps it.
	if _, err := d.Set(t.Context(), other.Record().ID, model.Change{Memory: new(256 * model.MiB)}); err != nil {
		t.Errorf("changing a VM with a name like an id: %v", err)
	}
	if _, err := d.Get(""); fault.KindOf(err) != fault.NotFound {
		t.Errorf("looking up an empty name returned %v", err)
	}
	names := map[string]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			v, err := d.Create(t.Context(), model.Create{}, nil)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			names[v.Spec.Name] = true
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(names) != 20 {
		t.Errorf("%d names for 20 VMs", len(names))
	}
}

func TestRacingForAName(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for range 8 {
		wg.Go(func() { _, err := d.Create(t.Context(), model.Create{Name: "a"}, nil); errs <- err })
	}
	wg.Wait()
	close(errs)
	won := 0
	for err := range errs {
		switch fault.KindOf(err) {
		case "":
			won++
		case fault.Exists:
		default:
			t.Error(err)
		}
	}
	equal(t, "the number of VMs that got the name", won, 1)
	d.wantVMs(t, 1)
}
