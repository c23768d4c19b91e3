package vm

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
)

// TestUnrecordedEnds has the disk full at the moment when an operation would record how it ended. No VM is stuck for that: when there is room
// again, each command that would have been possible is.
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
			d.running(t, "a")
			h.failing("store stopped", errBoom)
			if _, err := d.Stop(t.Context(), "a", nil, nil); !errors.Is(err, errBoom) {
				t.Errorf("the stop returned %v, not the error of its hook", err)
			}
			h.failing("store stopped", nil)
		},
		"running": func(t *testing.T, h *host, d *daemon, v model.VM) {
			d.running(t, "a")
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
					t.Fatalf("it is %s", got)
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

// TestDeleteOnAFullDisk: deleting is what makes room, of a VM that runs and of one whose end could not be recorded.
func TestDeleteOnAFullDisk(t *testing.T) {
	for _, ended := range []bool{false, true} {
		t.Run(fmt.Sprint("ended ", ended), func(t *testing.T) {
			h := newHost(t)
			d := h.daemon()
			v := d.create(t, model.Create{Name: "a"})
			d.running(t, "a")
			h.failing("store stopped", errBoom)
			h.failing("store deleting", errBoom)
			if ended {
				failed := h.called("store stopped")
				h.end(v, vmm.ExitPowerOff)
				waitFor(t, func() bool { return h.called("store stopped") > failed })
			}
			if err := d.Delete(t.Context(), "a", true, nil); err != nil {
				t.Fatalf("ended %v: %v", ended, err)
			}
			h.wantFiles(t, nil)
			h.wantMachines(t, 0)
			d.wantVMs(t, 0)
		})
	}
}

// notGone are the hooks of all that a deletion writes.
var notGone = []string{"store deleting", "store broken", "store gone"}

// TestDeleteThatCannotBeRecorded has a disk on which nothing at all can be stored, and a VM at rest, of which deleting frees nothing.
func TestDeleteThatCannotBeRecorded(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	free := h.full(notGone...)
	for range 2 {
		err := d.Delete(t.Context(), "a", false, nil)
		claim(t, errors.Is(err, errBoom), "the deletion returned %v, not the disk's error", err)
		claim(t, err == nil || !strings.Contains(err.Error(), "broken"), "the deletion returned more than the disk's error: %v", err)
		d.goesAway(t, "a")
	}
	if _, err := d.Start(t.Context(), "a", model.Start{}, nil); fault.KindOf(err) != fault.WrongState {
		t.Errorf("it was started without its disks: %v", err)
	}
	free()
	if err := d.Delete(t.Context(), "a", false, nil); err != nil {
		t.Errorf("the deletion with room again: %v", err)
	}
	d.wantVMs(t, 0)
}

// TestChildrenGoAwayByThemselves has forks whose children fail on a disk so full that it cannot be recorded that they are gone: nobody has to delete them.
func TestChildrenGoAwayByThemselves(t *testing.T) {
	t.Parallel()
	full := append([]string{"store stopped", "store error"}, notGone...)
	for name, c := range map[string]struct {
		child string // what fails of it
		fails []string
		then  func(*testing.T, *daemon) *daemon // when there is room again
	}{
		"in time":     {"its disks", full, func(t *testing.T, d *daemon) *daemon { d.retryCleanups(t.Context()); return d }},
		"operation":   {"its disks", full, func(t *testing.T, d *daemon) *daemon { d.pause(t, d.List()[0]); d.resume(t, d.List()[0]); return d }},
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
			free := h.full(c.fails...)
			forked, err := d.Fork(t.Context(), "a", model.Fork{Name: "x"}, nil)
			if err != nil || forked.Children[0].VM != nil {
				t.Fatalf("%+v, %v", forked, err)
			}
			d.goesAway(t, "x")
			h.wantFiles(t, before)
			h.wantMachines(t, 1)
			d.retryCleanups(t.Context()) // too early
			d.goesAway(t, "x")
			equal(t, "the number of log lines", strings.Count(log.String(), "could not be recorded"), 1)
			claim(t, strings.Contains(log.String(), "boom"), "the log does not name the cause: %s", log.String())
			if c.child == "its disks" { // then the record says so
				d.die()
				d = h.daemon()
				d.goesAway(t, "x")
			}
			free()
			d = c.then(t, d)
			d.wantVMs(t, 1)
			equal(t, "the VM that is left", d.List()[0].ID, v.ID)
			d.goesOn(t, v)
			d.die()
			if d = h.daemon(); len(d.List()) != 1 {
				t.Errorf("with another daemon there are %v", d.List())
			}
		})
	}
}

// TestChildOnATrulyFullDisk leaves not a byte for the database when a child is to go.
func TestChildOnATrulyFullDisk(t *testing.T) {
	h := newHost(t)
	fill, free := h.small(h.layout.State, 48*model.MiB)
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
		t.Errorf("%+v", forked)
	}
	h.failing("store stopped", nil)
	for _, v := range d.List()[1:] { // if there is one: the database may have had room of its own
		equal(t, "the child, whose deletion cannot be recorded,", v.State, model.Deleting)
		wantLastError(t, v, "no space left")
	}
	free()
	d.retryCleanups(t.Context())
	d.wantVMs(t, 1)
	d.goesOn(t, v)
}
