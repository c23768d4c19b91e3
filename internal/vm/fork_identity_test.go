package vm

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

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
