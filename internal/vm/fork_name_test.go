package vm

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestForkToTakenNamesFreezesNothing checks that a fork does not even freeze the parent when all
// the names are taken.
func TestForkToTakenNamesFreezesNothing(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.create(t, model.Create{Name: "x"})
	d.create(t, model.Create{Name: "x-1"})
	_, err := d.Fork(t.Context(), "a", model.Fork{Name: "x"}, nil)
	wantKind(t, "a fork to a taken name", err, fault.Exists)
	h.wantCalls(t, "freeze", 0)
	forked, err := d.Fork(t.Context(), "a", model.Fork{Name: "x", Count: 2}, nil)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the kind of error of the child whose name is taken", forked.Children[0].Kind, string(fault.Exists))
	claim(t, forked.Children[1].VM != nil, "the child whose name is free has not started: %+v", forked.Children[1])
	if _, err := d.CreateSnapshot(t.Context(), "a", "s", nil); err != nil {
		t.Fatal(err)
	}
	halts := h.called("freeze")
	_, err = d.CreateSnapshot(t.Context(), "a", "s", nil)
	wantKind(t, "a second snapshot of the name", err, fault.Exists)
	h.wantCalls(t, "freeze", halts)
	d.wantContinues(t, v)
}

// TestForkWithoutAName checks that a child without a name gets a random one.
func TestForkWithoutAName(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	child := d.fork(t, v, model.Fork{})[0]
	claim(t, child.Spec.Name != "", "the child has no name")
	claim(t, child.Spec.Name != "a", "the child has its parent's name")
	d.wantFork(t, child, v, "work of a")
}

// TestForkToSomeTakenNames checks that only the children whose names are taken fail.
func TestForkToSomeTakenNames(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.create(t, model.Create{Name: "a-2"})
	before := h.files()
	forked, err := d.Fork(t.Context(), "a", model.Fork{Count: 3}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range forked.Children {
		fails := i == 1
		claim(t, (c.VM == nil) == fails, "child %d has no VM: %v, but must fail: %v", i+1, c.VM == nil, fails)
		claim(t, (c.Error != "") == fails, "child %d has the error %q, but must fail: %v", i+1, c.Error, fails)
		claim(t, (c.Hint != "") == fails, "child %d has the hint %q, but must fail: %v", i+1, c.Hint, fails)
		if c.VM != nil {
			d.wantFork(t, *c.VM, v, "work of a")
			d.Delete(t.Context(), c.Name, true, nil)
		}
	}
	h.wantFiles(t, before)
	d.wantVMs(t, 2)
	d.wantContinues(t, v)
}

// TestForksRaceForNames has several forks of one VM request the same names.
func TestForksRaceForNames(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	var wg sync.WaitGroup
	results := make([]model.Forked, 3)
	for i := range results {
		wg.Go(func() {
			var err error
			results[i], err = d.Fork(t.Context(), "a", model.Fork{Name: "b", Count: 2}, nil)
			// The others may have taken both names before this fork begins.
			if err != nil && fault.KindOf(err) != fault.Exists {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	won := map[string]int{}
	for _, forked := range results {
		for i, c := range forked.Children {
			if want := fmt.Sprint("b-", i+1); c.Name != want {
				t.Errorf("a child is named %q, not %q", c.Name, want)
			}
			if c.VM != nil {
				won[c.Name]++
				d.wantFork(t, *c.VM, v, "work of a")
			} else if !strings.Contains(c.Error, "exists") {
				t.Errorf("the child %s failed with %q, not because the name exists", c.Name, c.Error)
			}
		}
	}
	claim(t, maps.Equal(won, map[string]int{"b-1": 1, "b-2": 1}), "each name must be won once, but won are %v", won)
	d.wantVMs(t, 3)
	h.wantMachines(t, 3)
	d.wantContinues(t, v)
}
