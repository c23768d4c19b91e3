package vm

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestForkToTakenNames does not even halt the parent when no child could have its name.
func TestForkToTakenNames(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.create(t, model.Create{Name: "x"})
	d.create(t, model.Create{Name: "x-1"})
	if _, err := d.Fork(t.Context(), "a", model.Fork{Name: "x"}, nil); fault.KindOf(err) != fault.Exists || h.called("freeze") != 0 {
		t.Errorf("%v; the parent was halted %d times", err, h.called("freeze"))
	}
	forked, err := d.Fork(t.Context(), "a", model.Fork{Name: "x", Count: 2}, nil)
	if err != nil || forked.Children[0].Kind != string(fault.Exists) || forked.Children[1].VM == nil {
		t.Errorf("%+v, %v", forked, err)
	}
	if _, err := d.CreateSnapshot(t.Context(), "a", "s", nil); err != nil {
		t.Fatal(err)
	}
	halts := h.called("freeze")
	if _, err := d.CreateSnapshot(t.Context(), "a", "s", nil); fault.KindOf(err) != fault.Exists || h.called("freeze") != halts {
		t.Errorf("a second snapshot of the name: %v; halted %d times, then %d", err, halts, h.called("freeze"))
	}
	d.goesOn(t, v)
}

func TestNamesOfForks(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 62)
	for name, c := range map[string]struct {
		req  model.Fork
		want []string // nil: refused
	}{
		"one":           {model.Fork{}, []string{""}},
		"one by name":   {model.Fork{Name: "b"}, []string{"b"}},
		"one of one":    {model.Fork{Name: "b", Count: 1}, []string{"b"}},
		"many":          {model.Fork{Count: 2}, []string{"a-1", "a-2"}},
		"many by name":  {model.Fork{Name: "b", Count: 2}, []string{"b-1", "b-2"}},
		"none":          {model.Fork{Count: -1}, nil},
		"too many":      {model.Fork{Count: model.MaxForks + 1}, nil},
		"a bad name":    {model.Fork{Name: "A b"}, nil},
		"a long name":   {model.Fork{Name: long}, []string{long}},
		"a longer name": {model.Fork{Name: long, Count: 2}, nil},
		"a bad policy":  {model.Fork{Remove: "some day"}, nil},
	} {
		got, err := childNames(model.VM{Spec: model.Spec{
			Name: "a", Image: "i", VCPUs: 1, Memory: model.GiB, DiskSize: model.GiB, Net: model.NetNone,
		}}, c.req)
		if !slices.Equal(got, c.want) || (c.want == nil) != (fault.KindOf(err) == fault.Invalid) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// TestForkWithoutAName gives children random names.
func TestForkWithoutAName(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	child := d.fork(t, v, model.Fork{})[0]
	if child.Spec.Name == "" || child.Spec.Name == "a" {
		t.Errorf("it is called %q", child.Spec.Name)
	}
	d.isFork(t, child, v, "work of a")
}

// TestTakenNames fails the children whose names are taken, and no others.
func TestTakenNames(t *testing.T) {
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
		if (c.VM == nil) != (i == 1) || (c.Error == "") != (i != 1) || (c.Hint == "") != (i != 1) {
			t.Errorf("child %d: %+v", i+1, c)
		}
		if c.VM != nil {
			d.isFork(t, *c.VM, v, "work of a")
			d.Delete(t.Context(), c.Name, true, nil)
		}
	}
	if after := h.files(); !slices.Equal(before, after) || len(d.List()) != 2 {
		t.Errorf("files before %v, after %v", before, after)
	}
	d.goesOn(t, v)
}

// TestForksRaceForNames has two forks of one VM and a create ask for the same names.
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
			if results[i], err = d.Fork(t.Context(), "a", model.Fork{Name: "b", Count: 2}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	won := map[string]int{}
	for _, forked := range results {
		for i, c := range forked.Children {
			if want := fmt.Sprint("b-", i+1); c.Name != want {
				t.Errorf("%q instead of %q", c.Name, want)
			}
			if c.VM != nil {
				won[c.Name]++
				d.isFork(t, *c.VM, v, "work of a")
			} else if !strings.Contains(c.Error, "exists") {
				t.Errorf("%+v", c)
			}
		}
	}
	if len(won) != 2 || won["b-1"] != 1 || won["b-2"] != 1 || len(d.List()) != 3 || h.running() != 3 {
		t.Errorf("won: %v; %d VMs, %d machines", won, len(d.List()), h.running())
	}
	d.goesOn(t, v)
}
