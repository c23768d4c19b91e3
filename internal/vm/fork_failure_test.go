package vm

import (
	"context"
	"errors"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
)

// childHooks are the moments of making a child.
var childHooks = []string{
	"store creating", "store stopped", "store starting", "do preflight", "do initramfs", "shape",
	"do prepare/two", "restore", "do vmm", "do agent", "do assume",
	"do post-start/two", "store running",
}

// TestCaptureFails makes each part of saving the parent fail. The parent continues, and nothing is
// left.
func TestCaptureFails(t *testing.T) {
	t.Parallel()
	for _, state := range []model.State{model.Running, model.Paused} {
		for _, hook := range []string{"freeze", "froze", "save", "still", "shape"} {
			if state == model.Paused && strings.HasPrefix(hook, "fr") {
				continue // its processes are already frozen
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
					t.Errorf("the fork returned %v, not the error of its hook", err)
				}
				if _, err := d.CreateSnapshot(t.Context(), "a", "s", nil); !errors.Is(err, errBoom) {
					t.Errorf("the snapshot returned %v, not the error of its hook", err)
				}
				h.failing(hook, nil)
				h.wantFiles(t, before)
				h.wantStored(t, 0)
				d.wantVMs(t, 1)
				if state == model.Paused {
					d.wantPaused(t, v)
					d.resume(t, v)
				}
				d.wantContinues(t, v)
				d.wantFork(t, d.fork(t, v, model.Fork{})[0], v, "work of a")
			})
		}
	}
}

// TestParentThatCannotBeThawed makes the thaw of a saved parent fail. There is no fork, and the
// next operation thaws the parent.
func TestParentThatCannotBeThawed(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	before := h.files()
	h.failing("thaw", errBoom)
	if _, err := d.Fork(t.Context(), "a", model.Fork{}, nil); !errors.Is(err, errBoom) {
		t.Errorf("a fork whose parent cannot be thawed returned %v, not %v", err, errBoom)
	}
	d.wantVMs(t, 1)
	h.wantStored(t, 0)
	wantEnds(t, "an operation on it", model.Running)(d.Rename(t.Context(), "a", "b"))
	h.failing("thaw", nil)
	if _, err := d.Rename(t.Context(), "b", "a"); err != nil {
		t.Error(err)
	}
	d.wantContinues(t, v)
	h.wantFiles(t, before)
}

// TestForkEndsWithTheParent ends the parent while it is saved.
func TestForkEndsWithTheParent(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"freeze", "still"} {
		t.Run(hook, func(t *testing.T) {
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			release := h.hanging(hook)
			errs := make(chan error, 1)
			go func() { _, err := d.Fork(t.Context(), "a", model.Fork{}, nil); errs <- err }()
			waitFor(t, func() bool { return h.called(hook) > 0 })
			h.end(v, vmm.ExitCrashed)
			release()
			if err := <-errs; err == nil {
				t.Error("a fork succeeded although its parent ended")
			}
			d.wantVMs(t, 1)
			h.wantStored(t, 0)
			waitFor(t, func() bool { return d.state(t, "a") == model.Stopped })
		})
	}
}

// TestChildrenFail makes each part of making a child fail. Nothing is left of the children, and
// the parent is not affected.
func TestChildrenFail(t *testing.T) {
	t.Parallel()
	for i, hook := range childHooks {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.suspend(t, v) // so that saving the parent calls none of the hooks
			before := h.files()
			h.failing(hook, errBoom)
			req := model.Fork{Count: 2, Remove: []model.RemovePolicy{model.RemoveNever, model.RemoveOnStop, model.RemoveOnDetach}[i%3]}
			forked, err := d.Fork(t.Context(), "a", req, nil)
			if err != nil || len(forked.Children) != 2 {
				t.Fatalf("two children are to be reported, not %+v, %v", forked, err)
			}
			for _, c := range forked.Children {
				claim(t, c.VM == nil, "the child %s has started", c.Name)
				claim(t, strings.Contains(c.Error, "boom"), "the child %s failed with %q", c.Name, c.Error)
			}
			h.failing(hook, nil)
			h.wantFiles(t, before)
			h.wantMachines(t, 0)
			d.wantVMs(t, 1)
			h.wantStored(t, 0)
			for _, child := range d.fork(t, v, req) {
				d.wantFork(t, child, v, "work of a")
			}
			d.resume(t, v)
			d.wantContinues(t, v)
		})
	}
}

// TestStuckChildIsListed has a failed child whose machine survives being killed. The child stays
// listed until it can be deleted.
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
		t.Fatalf("the child must fail alone: %+v, %v", forked, err)
	}
	d.wantState(t, "b", model.Broken)
	h.failing("signal", nil)
	if err := d.Delete(t.Context(), "b", true, nil); err != nil {
		t.Error(err)
	}
	h.wantFiles(t, before)
	h.wantMachines(t, 1)
	d.wantContinues(t, v)
}

// TestCancelledFork cancels a fork at each moment. There are no children, and the parent
// continues.
func TestCancelledFork(t *testing.T) {
	t.Parallel()
	for _, hook := range append([]string{"freeze", "froze", "save", "still", "thaw"}, childHooks...) {
		if strings.HasPrefix(hook, "store") && hook != "store creating" || hook == "do preflight" || hook == "restore" || hook == "do vmm" {
			continue // these hooks ignore the context, and their neighbours are tested
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
					t.Errorf("the cancelled fork has the child %+v", c)
				}
			}
			claim(t, got.err != nil || len(got.Children) == 2, "the fork reports %d of 2 children", len(got.Children))
			h.wantFiles(t, before)
			h.wantMachines(t, 1)
			d.wantVMs(t, 1)
			h.wantStored(t, 0)
			d.wantContinues(t, v)
		})
	}
}

// TestParentIsFreeWhileChildrenStart checks that a fork holds its parent only while it saves it.
// The parent can then even be deleted.
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
	d.wantRunning(t, v)
	if err := d.Delete(t.Context(), "a", true, nil); err != nil {
		t.Error(err)
	}
	release()
	for _, child := range childrenOf(t, <-results) {
		d.wantFork(t, child, v, "work of a")
	}
	d.wantVMs(t, 2)
	h.wantStored(t, 0)
}

// TestChildIsDeletedWhileItStarts checks that the deletion of a starting child does not affect its
// siblings.
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
	// The child may remove itself first.
	if err := d.Delete(t.Context(), "a-1", true, nil); err != nil && fault.KindOf(err) != fault.NotFound {
		t.Error(err)
	}
	release()
	forked := <-results
	deleted := forked.Children[0]
	claim(t, deleted.VM == nil, "the deleted child has started: %+v", deleted.VM)
	claim(t, deleted.Error != "", "the deleted child is reported without an error")
	d.wantFork(t, *forked.Children[1].VM, v, "work of a")
	d.wantVMs(t, 2)
	h.wantMachines(t, 2)
}

// TestForkWithoutItsImage forks a VM whose image or kernel was deleted by hand.
func TestForkWithoutItsImage(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	for _, id := range []string{"id-of-img", "id-of-krn"} {
		h.setGone(id, true)
		forked, err := d.Fork(t.Context(), "a", model.Fork{}, nil)
		if err != nil || forked.Children[0].VM != nil {
			t.Errorf("a fork without %s: %+v, %v", id, forked, err)
		}
		d.wantVMs(t, 1)
		h.wantStored(t, 0)
		h.setGone(id, false)
	}
	d.wantContinues(t, v)
}

// TestForkOnAFullDisk fills the disk so that there is no room for the parent's copy, or for a
// child's.
func TestForkOnAFullDisk(t *testing.T) {
	for name, leave := range map[string]model.Bytes{"copy": model.MiB, "child": 7 * model.MiB} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			fill, free := h.smallFilesystem(h.layout.State, 48*model.MiB)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			h.occupy(v, 4*model.MiB)
			before := h.files()
			fill(leave)
			// Of two children, one could use up the room in which to record the other's removal.
			forked, err := d.Fork(t.Context(), "a", model.Fork{Name: "x"}, nil)
			if name == "copy" {
				wantDiskFull(t, err)
			} else {
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range forked.Children {
					claim(t, c.VM == nil, "the child %s has started", c.Name)
					claim(t, c.Hint != "", "the child %s failed without a hint: %s", c.Name, c.Error)
				}
			}
			h.wantFiles(t, before)
			d.wantVMs(t, 1)
			h.wantStored(t, 0)
			h.wantMachines(t, 1)
			d.wantContinues(t, v)
			free()
			for _, child := range d.fork(t, v, model.Fork{Count: 2}) {
				d.wantFork(t, child, v, "work of a")
			}
		})
	}
}
