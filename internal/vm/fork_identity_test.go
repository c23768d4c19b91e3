package vm

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/machine"
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
				d.bringTo(t, v, state)
			}
			before := h.files()
			var mu sync.Mutex
			var reported []string
			forked, err := d.Fork(t.Context(), "a", model.Fork{Count: 3, Labels: map[string]string{"of": "child"}}, func(e step.Event) {
				mu.Lock()
				defer mu.Unlock()
				reported = append(reported, fmt.Sprint(e.Step, " ", e.Phase))
			})
			if err != nil {
				t.Fatal(err)
			}
			claim(t, (forked.Pause > 0) == (state == model.Running),
				"a parent that is %s was halted for %v", state, forked.Pause)
			equalLists(t, "the steps that the fork reported", reported, []string{
				"capture started", "capture done", "pause done", "child done", "child done", "child done",
			})
			children := childrenOf(t, forked)
			for i, child := range children {
				name := fmt.Sprint("a-", i+1)
				equal(t, "the child's name", child.Spec.Name, name)
				equal(t, "the label of "+name, child.Spec.Labels["of"], "child")
				equal(t, "the removal policy of "+name, child.Spec.Remove, model.RemoveNever)
				wantOriginOf(t, child, model.FromFork, v.ID)
				equal(t, "the name of the origin of "+name, originName(child), "a")
				d.wantFork(t, child, v, "work of a")
				if _, err := os.Stat(h.layout.VM(child.ID).WorkDisk()); err != nil {
					t.Error(err)
				}
			}
			d.wantState(t, "a", state)
			h.wantStored(t, 0)
			h.work(children[0], "of its own")
			d.wantFork(t, children[1], v, "work of a")
			for _, child := range children {
				if err := d.Delete(t.Context(), child.ID, true, nil); err != nil {
					t.Error(err)
				}
			}
			h.wantFiles(t, before)
			if state != model.Running {
				d.resume(t, v)
			}
			d.wantContinues(t, v)
		})
	}
}

// TestForkMemoryIsSealed checks that no child can change the memory that its siblings share.
func TestForkMemoryIsSealed(t *testing.T) {
	t.Parallel()
	for _, state := range []model.State{model.Running, model.Paused, model.Suspended} {
		t.Run(string(state), func(t *testing.T) {
			t.Parallel()
			d := newHost(t).daemon()
			v := d.worker(t, model.Create{Name: "a"})
			if state != model.Running {
				d.bringTo(t, v, state)
			}
			c, err := d.captureFork(t.Context(), "a", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			source, err := c.Source()
			if err != nil {
				t.Fatal(err)
			}
			from := source.(*machine.Fork)
			defer from.Close()
			if _, err := from.Memory.WriteAt([]byte{1}, 0); !errors.Is(err, unix.EPERM) {
				t.Errorf("a child can write the memory of its siblings: %v", err)
			}
			if err := d.Delete(t.Context(), "a", true, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestForkHasTheRunningSpec checks that a fork has the changes that its parent has applied, and
// not those that wait for its next start.
func TestForkHasTheRunningSpec(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a", Env: map[string]string{"OLD": "1"}})
	changed, err := d.Set(t.Context(), "a", model.Change{
		VCPUs: ptr(3), Image: ptr("other"), Env: map[string]string{"NEW": "1"}, DiskSize: ptr(96 * model.MiB),
		Labels: map[string]string{"of": "parent"}, IdleSuspend: ptr(time.Hour),
	})
	if err != nil || !slices.Equal(changed.Applied, []string{"disk_size", "labels", "idle_suspend"}) {
		t.Fatalf("the parent must apply the disk size, the labels and the idle time: %+v, %v", changed, err)
	}
	check := func(child model.VM, err error) {
		t.Helper()
		s := child.Spec
		if err != nil {
			t.Error(err)
		}
		equal(t, "the number of vCPUs, which is changed for the parent's next start,", s.VCPUs, 1)
		equal(t, "the image, which is changed for the parent's next start,", s.ImageID, "id-of-img")
		equal(t, "the image under the child's disk", child.DiskImage, "id-of-img")
		equal(t, "the variable NEW, which the parent gets at its next start,", s.Env["NEW"], "")
		claim(t, len(child.Pending) == 0, "the child has the pending changes %v", child.Pending)
		equal(t, "the variable OLD, which the parent has,", s.Env["OLD"], "1")
		equal(t, "the disk size, which has changed for the parent,", s.DiskSize, 96*model.MiB)
		equal(t, "the label, which has changed for the parent,", s.Labels["of"], "parent")
		equal(t, "the idle time, which has changed for the parent,", s.IdleSuspend, time.Hour)
		wantSize(t, h.layout.VM(child.ID).SystemDisk(), 96*model.MiB)
	}
	child := d.fork(t, v, model.Fork{Name: "b"})[0]
	check(child, nil)
	got, err := d.Restart(t.Context(), "b", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.wantOnDisk(t, got, "work of a")
	check(got, nil)
	if got, _ := d.Get("a"); !slices.Equal(got.Pending, []string{"env", "image", "vcpus"}) {
		t.Errorf("the parent has the pending changes %v", got.Pending)
	}
}

// TestForkOfAFork forks forks, and deletes each parent.
func TestForkOfAFork(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	parent := d.worker(t, model.Create{Name: "a"})
	for _, name := range []string{"b", "c", "d"} {
		child := d.fork(t, parent, model.Fork{Name: name})[0]
		d.wantFork(t, child, parent, h.workOf(parent))
		h.work(child, "work of "+name)
		if err := d.Delete(t.Context(), parent.ID, true, nil); err != nil {
			t.Error(err)
		}
		parent = child
	}
	equal(t, "the number of the guest's forks", h.memoryOf(parent).Forks, 3)
	d.wantVMs(t, 1)
	d.wantContinues(t, parent)
}

// TestForkWhileWriting forks a VM whose guest writes to its disk after the first copy, or does
// not.
func TestForkWhileWriting(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		age    time.Duration // of the disk when it is copied
		writes bool
	}{
		"quiet": {time.Hour, false}, "written meanwhile": {time.Hour, true}, "just written": {0, false},
		"just written, and again": {0, true},
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
			d.wantFork(t, children[0], v, work)
			h.wantWork(t, v, work)
		})
	}
}

// TestRemovalOfForks checks that each child follows its own removal policy.
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
	d.wantState(t, "stays", model.Stopped)
	h.wantOnDisk(t, stays, "work of a")
	if _, err := d.Get("goes"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("the VM with the policy remove-on-stop still exists after its stop: %v", err)
	}
	d.die()
	d = h.daemon()
	_, err := d.Get(detached.ID)
	wantKind(t, "getting the detached VM", err, fault.NotFound)
	h.wantMachines(t, 1)
	d.wantContinues(t, v)
}
