package vm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
)

// TestStopNeedsNoSpace stops a VM although the beginning of the stop cannot be recorded.
func TestStopNeedsNoSpace(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	d.start(t, "a")
	h.failing("store stopping", errBoom)
	if _, err := d.Stop(t.Context(), "a", nil, nil); err != nil {
		t.Fatal(err)
	}
	d.wantState(t, "a", model.Stopped)
	h.wantMachines(t, 0)
}

// TestUnrecordedEnds fills the disk when an operation records its end. When there is room again,
// every command works as usual.
func TestUnrecordedEnds(t *testing.T) {
	inBetween := map[string]func(*testing.T, *host, *daemon, model.VM){
		"starting": func(t *testing.T, h *host, d *daemon, v model.VM) {
			h.failing("do agent", errBoom)
			h.failing("store error", errBoom)
			d.Start(t.Context(), "a", model.Start{}, nil)
			h.failing("do agent", nil)
			h.failing("store error", nil)
		},
		"stopping": func(t *testing.T, h *host, d *daemon, v model.VM) {
			d.start(t, "a")
			h.failing("store stopped", errBoom)
			if _, err := d.Stop(t.Context(), "a", nil, nil); !errors.Is(err, errBoom) {
				t.Errorf("the stop returned %v, not the error of its hook", err)
			}
			h.failing("store stopped", nil)
		},
		"running": func(t *testing.T, h *host, d *daemon, v model.VM) {
			d.start(t, "a")
			h.failing("store stopped", errBoom)
			failed := h.called("store stopped")
			h.end(v, vmm.ExitPowerOff)
			waitFor(t, func() bool { return h.called("store stopped") > failed })
			h.failing("store stopped", nil)
		},
	}
	for state, bringTo := range inBetween {
		for name, command := range map[string]func(*testing.T, *daemon) error{
			"start": func(t *testing.T, d *daemon) error {
				_, err := d.Start(t.Context(), "a", model.Start{}, nil)
				return err
			},
			"stop": func(t *testing.T, d *daemon) error { _, err := d.Stop(t.Context(), "a", nil, nil); return err },
			"set": func(t *testing.T, d *daemon) error {
				_, err := d.Set(t.Context(), "a", model.Change{VCPUs: ptr(2)})
				return err
			},
			"delete": func(t *testing.T, d *daemon) error { return d.Delete(t.Context(), "a", true, nil) },
		} {
			t.Run(state+"/"+name, func(t *testing.T) {
				h := newHost(t)
				d := h.daemon()
				bringTo(t, h, d, d.create(t, model.Create{Name: "a"}))
				if got := d.state(t, "a"); string(got) != state {
					t.Fatalf("the VM is recorded as %s, not %s", got, state)
				}
				if err := command(t, d); err != nil {
					t.Fatal(err)
				}
				if name == "start" && h.running() != 1 {
					t.Errorf("%d machines run", h.running())
				}
			})
		}
	}
}

// TestDeleteOnAFullDisk deletes a running VM, and one whose end could not be recorded. Deleting
// makes room.
func TestDeleteOnAFullDisk(t *testing.T) {
	for _, ended := range []bool{false, true} {
		t.Run(fmt.Sprint("ended ", ended), func(t *testing.T) {
			h := newHost(t)
			d := h.daemon()
			v := d.create(t, model.Create{Name: "a"})
			d.start(t, "a")
			h.failing("store stopped", errBoom)
			h.failing("store deleting", errBoom)
			if ended {
				failed := h.called("store stopped")
				h.end(v, vmm.ExitPowerOff)
				waitFor(t, func() bool { return h.called("store stopped") > failed })
			}
			if err := d.Delete(t.Context(), "a", true, nil); err != nil {
				t.Fatalf("the deletion failed: %v", err)
			}
			h.wantFiles(t, nil)
			h.wantMachines(t, 0)
			d.wantVMs(t, 0)
		})
	}
}

// notGone are the hooks of all writes of a deletion.
var notGone = []string{"store deleting", "store broken", "store gone"}

// TestDeleteThatCannotBeRecorded deletes a VM at rest on a disk on which nothing can be stored.
func TestDeleteThatCannotBeRecorded(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	free := h.fullDisk(notGone...)
	for range 2 {
		err := d.Delete(t.Context(), "a", false, nil)
		claim(t, errors.Is(err, errBoom), "the deletion returned %v, not the disk's error", err)
		claim(t, err == nil || !strings.Contains(err.Error(), "broken"),
			"the deletion returned more than the disk's error: %v", err)
		d.wantDeletionPending(t, "a")
	}
	if _, err := d.Start(t.Context(), "a", model.Start{}, nil); fault.KindOf(err) != fault.WrongState {
		t.Errorf("the start of a VM without its disks returned %v", err)
	}
	free()
	if err := d.Delete(t.Context(), "a", false, nil); err != nil {
		t.Errorf("the deletion with room again: %v", err)
	}
	d.wantVMs(t, 0)
}

// TestFailedChildrenAreDeletedLater forks on a disk so full that the deletion of the failed
// children cannot be recorded. Nobody has to delete them later.
func TestFailedChildrenAreDeletedLater(t *testing.T) {
	t.Parallel()
	full := append([]string{"store stopped", "store error"}, notGone...)
	for name, c := range map[string]struct {
		child string // its part that fails
		fails []string
		then  func(*testing.T, *daemon) *daemon // when there is room again
	}{
		"in time": {"its disks", full, func(t *testing.T, d *daemon) *daemon { d.retryCleanups(t.Context()); return d }},
		"rename": {"its disks", full, func(t *testing.T, d *daemon) *daemon {
			for _, name := range []string{"x", "a"} {
				damage(t, second(d.Rename(t.Context(), d.List()[0].ID, name)))
			}
			return d
		}},
		"start of it": {"its disks", full, func(t *testing.T, d *daemon) *daemon {
			if err := second(d.Start(t.Context(), "x", model.Start{}, nil)); fault.KindOf(err) != fault.NotFound {
				t.Errorf("the start of a VM that is to be deleted returned %v", err)
			}
			return d
		}},
		"next daemon": {"its disks", full, func(t *testing.T, d *daemon) *daemon { d.die(); return d.daemon() }},
		"fork": {"its disks", full, func(t *testing.T, d *daemon) *daemon {
			d.fork(t, d.List()[0], model.Fork{Name: "x"})
			damage(t, d.Delete(t.Context(), "x", true, nil))
			return d
		}},
		"create": {"its disks", full, func(t *testing.T, d *daemon) *daemon {
			d.create(t, model.Create{Name: "x"})
			damage(t, d.Delete(t.Context(), "x", true, nil))
			return d
		}},
		"in time, started": {"its start", append([]string{"do agent"}, append([]string{"store error"}, notGone...)...),
			func(t *testing.T, d *daemon) *daemon { d.retryCleanups(t.Context()); return d }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			var log strings.Builder
			d := h.daemon()
			d.Log = slog.New(slog.NewTextHandler(&log, nil))
			v := d.worker(t, model.Create{Name: "a"})
			before := h.files()
			free := h.fullDisk(c.fails...)
			forked, err := d.Fork(t.Context(), "a", model.Fork{Name: "x"}, nil)
			if err != nil || forked.Children[0].VM != nil {
				t.Fatalf("the child must fail alone: %+v, %v", forked, err)
			}
			d.wantDeletionPending(t, "x")
			h.wantFiles(t, before)
			h.wantMachines(t, 1)
			d.retryCleanups(t.Context()) // too early
			d.wantDeletionPending(t, "x")
			equal(t, "the number of log lines", strings.Count(log.String(), "could not be recorded"), 1)
			claim(t, strings.Contains(log.String(), "boom"), "the log does not name the cause: %s", log.String())
			if c.child == "its disks" { // then the record says so
				d.die()
				d = h.daemon()
				d.wantDeletionPending(t, "x")
			}
			free()
			d = c.then(t, d)
			d.wantVMs(t, 1)
			for _, left := range d.List() {
				equal(t, "the VM that is left", left.ID, v.ID)
			}
			d.wantContinues(t, v)
			d.die()
			if d = h.daemon(); len(d.List()) != 1 {
				t.Errorf("another daemon finds the VMs %v, not one", d.List())
			}
		})
	}
}

// TestChildOnATrulyFullDisk leaves no byte for the database when a child is to be deleted.
func TestChildOnATrulyFullDisk(t *testing.T) {
	h := newHost(t)
	fill, free := h.smallFilesystem(h.layout.State, 48*model.MiB)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	h.failing("store stopped", errBoom)
	release := h.hanging("store gone")
	over := make(chan model.Forked)
	go func() {
		forked, err := d.Fork(t.Context(), "a", model.Fork{Name: "x"}, nil)
		if err != nil {
			t.Error(err)
		}
		over <- forked
	}()
	waitFor(t, func() bool { return h.called("store gone") > 0 })
	fill(1)
	release()
	if forked := <-over; forked.Children[0].VM != nil {
		t.Errorf("the child has started: %+v", forked)
	}
	h.failing("store stopped", nil)
	for _, v := range d.List()[1:] { // there may be none, if the database still had room
		equal(t, "the child, whose deletion cannot be recorded,", v.State, model.Deleting)
		wantLastError(t, v, "no space left")
	}
	free()
	d.retryCleanups(t.Context())
	d.wantVMs(t, 1)
	d.wantContinues(t, v)
}

// TestHungDeletionDelaysNobody: no command waits for the end of another VM that is to be deleted.
func TestHungDeletionDelaysNobody(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	d.create(t, model.Create{Name: "x"})
	free := h.fullDisk(notGone...)
	if err := d.Delete(t.Context(), "x", false, nil); !errors.Is(err, errBoom) {
		t.Fatalf("the deletion returned %v", err)
	}
	free()
	failed := h.called("store gone")
	release := h.hanging("store gone")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.retryCleanups(context.Background())
	}()
	waitFor(t, func() bool { return h.called("store gone") > failed })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	damage(t, second(d.Start(ctx, "a", model.Start{}, nil)))
	damage(t, second(d.Create(ctx, model.Create{Name: "b"}, nil)))
	d.wantDeletionPending(t, "x")
	release()
	<-ended
	d.wantVMs(t, 2)
}
