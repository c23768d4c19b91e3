package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/testkit"
	"banger/internal/vmm"
)

// fork forks a VM and expects that all children come up.
func (d *daemon) fork(t *testing.T, v model.VM, req model.Fork) []model.VM {
	t.Helper()
	forked, err := d.Fork(t.Context(), v.ID, req, nil)
	if err != nil {
		t.Fatal(err)
	}
	return born(t, forked)
}

// born returns children that have all come up.
func born(t *testing.T, forked model.Forked) (children []model.VM) {
	t.Helper()
	for _, c := range forked.Children {
		if c.VM == nil || c.Error != "" || c.VM.Spec.Name != c.Name {
			t.Fatalf("a child: %+v", c)
		}
		children = append(children, *c.VM)
	}
	return children
}

// isFork looks that a VM goes on from where another one was, as itself.
func (d *daemon) isFork(t *testing.T, child, parent model.VM, work string) {
	t.Helper()
	if got := d.state(t, child.ID); got != model.Running || d.computer.Halted(child.ID) {
		t.Errorf("%s is %s; halted: %v", child.Spec.Name, got, d.computer.Halted(child.ID))
	}
	if g := d.look(child); g.Frozen || g.Forks == 0 || g.Name != child.Spec.Name {
		t.Errorf("the guest of %s: %+v", child.Spec.Name, g)
	}
	if got := d.worked(child); got != work {
		t.Errorf("%s has %q, not %q", child.Spec.Name, got, work)
	}
	if p := child.Parent; p == nil || p.VM != parent.ID || p.Name != parent.Spec.Name {
		t.Errorf("the parent of %s: %+v", child.Spec.Name, p)
	}
}

// without is what is left of a list of paths without those of a VM.
func (h *host) without(paths []string, v model.VM) []string {
	files := h.layout.VM(v.ID)
	return slices.DeleteFunc(slices.Clone(paths), func(path string) bool {
		return strings.HasPrefix(path, files.Dir) || strings.HasPrefix(path, files.Run)
	})
}

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

// TestForkWhileWriting forks a VM that writes to its disk after that was copied for the first time, or does not.
func TestForkWhileWriting(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		age    time.Duration // of the disk when it is copied
		writes bool
	}{
		"quiet": {time.Hour, false}, "written meanwhile": {time.Hour, true}, "just written": {0, false}, "just written, and again": {0, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			disk := h.layout.VM(v.ID).SystemDisk()
			then := time.Now().Add(-c.age)
			if err := os.Chtimes(disk, then, then); err != nil {
				t.Fatal(err)
			}
			calls, release := h.called("freeze"), h.hanging("freeze")
			work := "work of a"
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer release()
				waitFor(t, func() bool { return h.called("freeze") > calls })
				if c.writes {
					work = "later work"
					h.work(v, work)
					if c.age == 0 { // a file system with coarse times
						if err := os.Chtimes(disk, then, then); err != nil {
							t.Error(err)
						}
					}
				}
			}()
			children := d.fork(t, v, model.Fork{Name: "x"})
			<-done
			d.isFork(t, children[0], v, work)
			if got := d.worked(v); got != work {
				t.Errorf("the parent has %q", got)
			}
		})
	}
}

func TestFork(t *testing.T) {
	t.Parallel()
	for _, state := range []model.State{model.Running, model.Paused, model.Suspended} {
		t.Run(string(state), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.homes = true
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a", WorkDiskSize: ptr(64 * model.MiB), Labels: map[string]string{"of": "parent"}})
			if state != model.Running {
				d.bring(t, v, state)
			}
			before := h.files()
			var mu sync.Mutex
			var said []string
			forked, err := d.Fork(t.Context(), "a", model.Fork{Count: 3, Labels: map[string]string{"of": "child"}}, func(e step.Event) {
				mu.Lock()
				defer mu.Unlock()
				said = append(said, fmt.Sprint(e.Step, " ", e.Phase))
			})
			if err != nil {
				t.Fatal(err)
			}
			if (forked.Pause > 0) != (state == model.Running) {
				t.Errorf("it stood still for %v", forked.Pause)
			}
			if want := []string{"capture started", "capture done", "pause done", "child done", "child done", "child done"}; !slices.Equal(said, want) {
				t.Errorf("said %v, not %v", said, want)
			}
			children := born(t, forked)
			for i, child := range children {
				if want := fmt.Sprint("a-", i+1); child.Spec.Name != want || child.Spec.Labels["of"] != "child" || child.Spec.Remove != model.RemoveNever {
					t.Errorf("%s: %+v", want, child.Spec)
				}
				if o := child.Boot.Origin; child.Boot.Cold || o == nil || o.Kind != model.FromFork || o.Of != v.ID || o.Name != "a" {
					t.Errorf("%s went on from %+v", child.Spec.Name, child.Boot)
				}
				d.isFork(t, child, v, "work of a")
				if _, err := os.Stat(h.layout.VM(child.ID).WorkDisk()); err != nil {
					t.Error(err)
				}
			}
			if got := d.state(t, "a"); got != state {
				t.Errorf("the parent is %s", got)
			}
			if stored := h.stored(); len(stored) != 0 {
				t.Errorf("left: %v", stored)
			}
			h.work(children[0], "of its own")
			d.isFork(t, children[1], v, "work of a")
			for _, child := range children {
				if err := d.Delete(t.Context(), child.ID, true, nil); err != nil {
					t.Error(err)
				}
			}
			if after := h.files(); !slices.Equal(before, after) {
				t.Errorf("files before %v, after %v", before, after)
			}
			if state != model.Running {
				d.resume(t, v)
			}
			d.goesOn(t, v)
		})
	}
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

// TestForkIsAsItsParentRuns: with what a change has brought about, and without what waits for the next start.
func TestForkIsAsItsParentRuns(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a", Env: map[string]string{"OLD": "1"}})
	changed, err := d.Set(t.Context(), "a", model.Change{
		VCPUs: ptr(3), Image: ptr("other"), Env: map[string]string{"NEW": "1"}, DiskSize: ptr(96 * model.MiB),
		Labels: map[string]string{"of": "parent"}, IdleSuspend: ptr(time.Hour),
	})
	if err != nil || !slices.Equal(changed.Applied, []string{"disk_size", "labels", "idle_suspend"}) {
		t.Fatalf("%+v, %v", changed, err)
	}
	check := func(child model.VM, err error) {
		t.Helper()
		s := child.Spec
		if err != nil || s.VCPUs != 1 || s.ImageID != "id-of-img" || child.DiskImage != "id-of-img" || s.Env["NEW"] != "" || len(child.Pending) != 0 {
			t.Errorf("it has what its parent is yet to get: %+v, pending %v, %v", s, child.Pending, err)
		}
		if s.Env["OLD"] != "1" || s.DiskSize != 96*model.MiB || s.Labels["of"] != "parent" || s.IdleSuspend != time.Hour {
			t.Errorf("it lacks what its parent has: %+v", s)
		}
		if info, err := os.Stat(h.layout.VM(child.ID).SystemDisk()); err != nil || info.Size() != int64(96*model.MiB) {
			t.Errorf("its disk: %v, %v", info, err)
		}
	}
	child := d.fork(t, v, model.Fork{Name: "b"})[0]
	check(child, nil)
	if got, err := d.Restart(t.Context(), "b", nil, nil); err != nil || h.onDisk(got) != "work of a" {
		t.Errorf("after a restart: %v, %q on its disk", err, h.onDisk(got))
	} else {
		check(got, err)
	}
	if got, _ := d.Get("a"); !slices.Equal(got.Pending, []string{"env", "image", "vcpus"}) {
		t.Errorf("pending for the parent: %v", got.Pending)
	}
}

// TestForkOfAFork and so on, while its ancestors go away.
func TestForkOfAFork(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	parent := d.worker(t, model.Create{Name: "a"})
	for _, name := range []string{"b", "c", "d"} {
		child := d.fork(t, parent, model.Fork{Name: name})[0]
		d.isFork(t, child, parent, h.worked(parent))
		h.work(child, "work of "+name)
		if err := d.Delete(t.Context(), parent.ID, true, nil); err != nil {
			t.Error(err)
		}
		parent = child
	}
	if h.look(parent).Forks != 3 || len(d.List()) != 1 {
		t.Errorf("%+v, %d VMs", h.look(parent), len(d.List()))
	}
	d.goesOn(t, parent)
}

// TestCaptureFails fails each part of saving the parent: it goes on, and nothing is left.
func TestCaptureFails(t *testing.T) {
	t.Parallel()
	for _, state := range []model.State{model.Running, model.Paused} {
		for _, hook := range []string{"freeze", "froze", "save", "still", "shape"} {
			if state == model.Paused && strings.HasPrefix(hook, "fr") {
				continue // its processes are held already
			}
			t.Run(string(state)+"/"+hook, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				if state == model.Paused {
					d.pause(t, v)
				}
				before := h.files()
				h.failing(hook, errBoom)
				if _, err := d.Fork(t.Context(), "a", model.Fork{Count: 2}, nil); !errors.Is(err, errBoom) {
					t.Errorf("the fork: %v", err)
				}
				if _, err := d.CreateSnapshot(t.Context(), "a", "s", nil); !errors.Is(err, errBoom) {
					t.Errorf("the snapshot: %v", err)
				}
				h.failing(hook, nil)
				if after := h.files(); !slices.Equal(before, after) || len(h.stored()) != 0 || len(d.List()) != 1 {
					t.Errorf("files before %v, after %v, %v", before, after, h.stored())
				}
				if state == model.Paused {
					if !h.computer.Halted(v.ID) || !h.look(v).Frozen {
						t.Error("a paused VM goes on")
					}
					d.resume(t, v)
				}
				d.goesOn(t, v)
				d.isFork(t, d.fork(t, v, model.Fork{})[0], v, "work of a")
			})
		}
	}
}

// TestParentThatCannotGoOn has a guest that does not let its processes go on after it was saved: there is no fork, and whoever comes next tries again.
func TestParentThatCannotGoOn(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	before := h.files()
	h.failing("thaw", errBoom)
	if _, err := d.Fork(t.Context(), "a", model.Fork{}, nil); !errors.Is(err, errBoom) || len(d.List()) != 1 || len(h.stored()) != 0 {
		t.Errorf("%v; %d VMs, %v", err, len(d.List()), h.stored())
	}
	if got, err := d.Rename(t.Context(), "a", "b"); err != nil || got.State != model.Running {
		t.Errorf("an operation on it: %s, %v", got.State, err)
	}
	h.failing("thaw", nil)
	if _, err := d.Rename(t.Context(), "b", "a"); err != nil {
		t.Error(err)
	}
	d.goesOn(t, v)
	if after := h.files(); !slices.Equal(before, after) {
		t.Errorf("files before %v, after %v", before, after)
	}
}

// TestForkEndsWithTheParent that dies while it is saved.
func TestForkEndsWithTheParent(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"freeze", "still"} {
		h := newHost(t)
		d := h.daemon()
		v := d.worker(t, model.Create{Name: "a"})
		release := h.hanging(hook)
		errs := make(chan error, 1)
		go func() { _, err := d.Fork(t.Context(), "a", model.Fork{}, nil); errs <- err }()
		waitFor(t, func() bool { return h.called(hook) > 0 })
		h.end(v, vmm.ExitCrashed)
		release()
		if err := <-errs; err == nil || len(d.List()) != 1 || len(h.stored()) != 0 {
			t.Errorf("%s: %v; %d VMs, %v", hook, err, len(d.List()), h.stored())
		}
		waitFor(t, func() bool { return d.state(t, "a") == model.Stopped })
	}
}

// childHooks are the moments of making a child.
var childHooks = []string{
	"store creating", "store stopped", "store starting", "do preflight", "do initramfs", "shape", "do prepare/two", "restore", "do vmm", "do agent", "do assume",
	"do post-start/two", "store running",
}

// TestChildrenFail fails each part of making a child: nothing of it is left, whatever is to become of the children, and the parent does not mind.
func TestChildrenFail(t *testing.T) {
	t.Parallel()
	for i, hook := range childHooks {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.suspend(t, v) // of which a fork needs none of the hooks
			before := h.files()
			h.failing(hook, errBoom)
			req := model.Fork{Count: 2, Remove: []model.RemovePolicy{model.RemoveNever, model.RemoveOnStop, model.RemoveOnDetach}[i%3]}
			forked, err := d.Fork(t.Context(), "a", req, nil)
			if err != nil || len(forked.Children) != 2 {
				t.Fatalf("%+v, %v", forked, err)
			}
			for _, c := range forked.Children {
				if c.VM != nil || !strings.Contains(c.Error, "boom") {
					t.Errorf("%+v", c)
				}
			}
			h.failing(hook, nil)
			if after := h.files(); !slices.Equal(before, after) || h.running() != 0 || len(d.List()) != 1 || len(h.stored()) != 0 {
				t.Errorf("files before %v, after %v, %v; %d machines, %v", before, after, h.stored(), h.running(), d.List())
			}
			for _, child := range d.fork(t, v, req) {
				d.isFork(t, child, v, "work of a")
			}
			d.resume(t, v)
			d.goesOn(t, v)
		})
	}
}

// TestStuckChildIsListed has a child whose machine will not end: that stays to be seen, and goes when the cause does.
func TestStuckChildIsListed(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	before := h.files()
	h.failing("do assume", errBoom)
	h.failing("signal", errBoom)
	forked, err := d.Fork(t.Context(), "a", model.Fork{Name: "b"}, nil)
	if err != nil || forked.Children[0].VM != nil {
		t.Fatalf("%+v, %v", forked, err)
	}
	if got := d.state(t, "b"); got != model.Broken {
		t.Errorf("it is %s", got)
	}
	h.failing("signal", nil)
	if err := d.Delete(t.Context(), "b", true, nil); err != nil {
		t.Error(err)
	}
	if after := h.files(); !slices.Equal(before, after) || h.running() != 1 {
		t.Errorf("files before %v, after %v", before, after)
	}
	d.goesOn(t, v)
}

// TestCancelledFork has whoever forks a VM change their mind at each moment: there are no children, and the parent goes on.
func TestCancelledFork(t *testing.T) {
	t.Parallel()
	for _, hook := range append([]string{"freeze", "froze", "save", "still", "thaw"}, childHooks...) {
		if strings.HasPrefix(hook, "store") && hook != "store creating" || hook == "do preflight" || hook == "restore" || hook == "do vmm" {
			continue // they do not look at the context, and those around them stand for them
		}
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			before := h.files()
			release := h.hanging(hook)
			defer release()
			calls := h.called(hook)
			ctx, cancel := context.WithCancel(t.Context())
			type result struct {
				model.Forked
				err error
			}
			results := make(chan result, 1)
			go func() { forked, err := d.Fork(ctx, "a", model.Fork{Count: 2}, nil); results <- result{forked, err} }()
			waitFor(t, func() bool { return h.called(hook) > calls })
			cancel()
			release()
			got := <-results
			for _, c := range got.Children {
				if c.VM != nil {
					t.Errorf("a child: %+v", c)
				}
			}
			if got.err == nil && len(got.Children) != 2 {
				t.Errorf("%+v", got)
			}
			if after := h.files(); !slices.Equal(before, after) || h.running() != 1 || len(d.List()) != 1 || len(h.stored()) != 0 {
				t.Errorf("files before %v, after %v, %v; %d machines, %v", before, after, h.stored(), h.running(), d.List())
			}
			d.goesOn(t, v)
		})
	}
}

// TestParentIsFreeWhileChildrenStart: the fork does not keep it longer than it takes to save it, and it may go away meanwhile.
func TestParentIsFreeWhileChildrenStart(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	release := h.hanging("restore")
	defer release()
	results := make(chan model.Forked, 1)
	go func() {
		forked, err := d.Fork(t.Context(), "a", model.Fork{Count: 2}, nil)
		if err != nil {
			t.Error(err)
		}
		results <- forked
	}()
	waitFor(t, func() bool { return h.called("restore") == 2 })
	if d.state(t, "a") != model.Running || h.look(v).Frozen || h.computer.Halted(v.ID) {
		t.Error("the parent does not go on")
	}
	if err := d.Delete(t.Context(), "a", true, nil); err != nil {
		t.Error(err)
	}
	release()
	for _, child := range born(t, <-results) {
		d.isFork(t, child, v, "work of a")
	}
	if len(d.List()) != 2 || len(h.stored()) != 0 {
		t.Errorf("%d VMs, %v", len(d.List()), h.stored())
	}
}

// TestChildIsDeletedWhileItStarts takes nothing from the others.
func TestChildIsDeletedWhileItStarts(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	calls := h.called("do agent")
	release := h.hanging("do agent")
	defer release()
	results := make(chan model.Forked, 1)
	go func() {
		forked, err := d.Fork(t.Context(), "a", model.Fork{Count: 2}, nil)
		if err != nil {
			t.Error(err)
		}
		results <- forked
	}()
	waitFor(t, func() bool { return h.called("do agent") == calls+2 })
	if err := d.Delete(t.Context(), "a-1", true, nil); err != nil && fault.KindOf(err) != fault.NotFound { // it may take itself away first
		t.Error(err)
	}
	release()
	forked := <-results
	if c := forked.Children[0]; c.VM != nil || c.Error == "" {
		t.Errorf("the deleted child: %+v", c)
	}
	d.isFork(t, *forked.Children[1].VM, v, "work of a")
	if len(d.List()) != 2 || h.running() != 2 {
		t.Errorf("%d VMs, %d machines", len(d.List()), h.running())
	}
}

// TestForkWithoutItsImage that was deleted by hand.
func TestForkWithoutItsImage(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	for _, id := range []string{"id-of-img", "id-of-krn"} {
		h.delete(id, true)
		forked, err := d.Fork(t.Context(), "a", model.Fork{}, nil)
		if err != nil || forked.Children[0].VM != nil || len(d.List()) != 1 || len(h.stored()) != 0 {
			t.Errorf("without %s: %+v, %v", id, forked, err)
		}
		h.delete(id, false)
	}
	d.goesOn(t, v)
}

// TestRemovalOfForks: children go as they were asked to.
func TestRemovalOfForks(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a", Remove: model.RemoveOnStop})
	stays := d.fork(t, v, model.Fork{Name: "stays"})[0]
	goes := d.fork(t, v, model.Fork{Name: "goes", Remove: model.RemoveOnStop})[0]
	detached := d.fork(t, v, model.Fork{Name: "detached", Remove: model.RemoveOnDetach})[0]
	for _, child := range []model.VM{stays, goes} {
		if _, err := d.Stop(t.Context(), child.ID, nil, nil); err != nil {
			t.Error(err)
		}
	}
	if d.state(t, "stays") != model.Stopped || h.onDisk(stays) != "work of a" {
		t.Errorf("stays is %s with %q", d.state(t, "stays"), h.onDisk(stays))
	}
	if _, err := d.Get("goes"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("goes: %v", err)
	}
	d.die()
	d = h.daemon()
	if _, err := d.Get(detached.ID); fault.KindOf(err) != fault.NotFound || h.running() != 1 {
		t.Errorf("detached: %v, %d machines", err, h.running())
	}
	d.goesOn(t, v)
}

// TestKilledWhileForking kills the daemon at each moment of a fork: the parent goes on, and of the child there is nothing, or a VM that says what became of
// it and has all that its parent had on its disk.
func TestKilledWhileForking(t *testing.T) {
	t.Parallel()
	for _, hook := range append([]string{"freeze", "froze", "save", "still", "thaw"}, childHooks...) {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			before := h.files()
			dead := d
			d = d.killedIn(hook, func(ctx context.Context) { dead.Fork(ctx, "a", model.Fork{Name: "x"}, nil) })
			d.goesOn(t, v)
			after := h.files()
			if child, err := d.Get("x"); err == nil { // nobody was told of it, and its memory is gone
				t.Errorf("there is a child: %+v", child)
			}
			if !slices.Equal(before, after) || h.running() != 1 {
				t.Errorf("files before %v, after %v; %d machines", before, after, h.running())
			}
			d.isFork(t, d.fork(t, v, model.Fork{Name: "x"})[0], v, "work of a")
		})
	}
}

// TestRecoveryCannotLetTheParentGoOn pauses it, and says why.
func TestRecoveryCannotLetTheParentGoOn(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	dead := d
	h.failing("thaw", errBoom)
	d = d.killedIn("still", func(ctx context.Context) { dead.Fork(ctx, "a", model.Fork{}, nil) })
	d.cannotGoOn(t, v)
}

// small makes the host's folder for state, or its cache, a file system with little room. It returns functions that use up what is left, but for some bytes,
// and give it back. Tests that use it do not run beside others: a process that one of those begins may have a file open, between its fork and
// its exec, whose room shall be free by now.
func (h *host) small(dir string, size model.Bytes) (fill func(leave model.Bytes), free func()) {
	h.t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		h.t.Fatal(err)
	}
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprint("mode=700,size=", int64(size)))
	testkit.Require(h.t, "root", err == nil, fmt.Sprintf("mounting a tmpfs: %v", err))
	h.t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	filler := filepath.Join(dir, "filler")
	room := func() model.Bytes {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			h.t.Error(err)
		}
		return model.Bytes(st.Bavail) * model.Bytes(st.Bsize)
	}
	fill = func(leave model.Bytes) {
		h.t.Helper()
		f, err := os.Create(filler)
		if err == nil {
			err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, int64(room()-leave)), f.Close())
		}
		if err != nil {
			h.t.Fatal(err)
		}
	}
	return fill, func() { os.Remove(filler) }
}

// litter has a guest write something to its system disk that takes up room on the host.
func (h *host) litter(v model.VM, size model.Bytes) {
	h.t.Helper()
	f, err := os.OpenFile(h.layout.VM(v.ID).SystemDisk(), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(bytes.Repeat([]byte("litter\n"), int(size)/7), workPlace+(1<<20))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		h.t.Error(err)
	}
}

// isFull looks that an error says that the disk is.
func isFull(t *testing.T, err error) {
	t.Helper()
	if fault.KindOf(err) != fault.Unavailable || !strings.Contains(strings.ToLower(fault.HintOf(err)), "free some space") {
		t.Errorf("got %v, hint %q", err, fault.HintOf(err))
	}
}

// TestForkOnAFullDisk fails for want of room for the parent's copy, or for a child's.
func TestForkOnAFullDisk(t *testing.T) {
	for name, leave := range map[string]model.Bytes{"copy": model.MiB, "child": 7 * model.MiB} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			fill, free := h.small(h.layout.State, 48*model.MiB)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			h.litter(v, 4*model.MiB)
			before := h.files()
			fill(leave)
			forked, err := d.Fork(t.Context(), "a", model.Fork{Name: "x"}, nil) // of two, one could use up the room in which to record that the other is gone
			if name == "copy" {
				isFull(t, err)
			} else {
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range forked.Children {
					if c.VM != nil || c.Hint == "" {
						t.Errorf("%+v", c)
					}
				}
			}
			if after := h.files(); !slices.Equal(before, after) || len(d.List()) != 1 || len(h.stored()) != 0 || h.running() != 1 {
				t.Errorf("files before %v, after %v, %v; %v; %+v", before, after, h.stored(), d.List(), forked)
			}
			d.goesOn(t, v)
			free()
			for _, child := range d.fork(t, v, model.Fork{Count: 2}) {
				d.isFork(t, child, v, "work of a")
			}
		})
	}
}

// TestSuspendOnAFullDisk leaves the VM running.
func TestSuspendOnAFullDisk(t *testing.T) {
	h := newHost(t)
	fill, free := h.small(h.layout.State, 32*model.MiB)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	before := h.files()
	for _, leave := range []model.Bytes{0, 4 * model.KiB, 8 * model.KiB} { // not even the database's log may have room
		fill(leave + 1)
		if _, err := d.Suspend(t.Context(), "a", nil); err == nil {
			t.Errorf("with %v left it was suspended", leave)
			d.Resume(t.Context(), "a", nil)
		} else {
			isFull(t, err)
		}
		free()
		if _, err := d.Start(t.Context(), "a", model.Start{}, nil); err != nil {
			t.Error(err)
		}
		d.goesOn(t, v)
		if after := h.files(); !slices.Equal(before, after) {
			t.Errorf("files before %v, after %v", before, after)
		}
	}
	d.suspend(t, v)
	d.resume(t, v)
	d.goesOn(t, v)
}
