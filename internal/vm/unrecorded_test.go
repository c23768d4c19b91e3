package vm

import (
	"errors"
	"strings"
	"testing"

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
				t.Errorf("the stop: %v", err)
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
		if left := h.files(); len(left) != 0 || h.running() != 0 || len(d.List()) != 0 {
			t.Errorf("ended %v; left: %v, %d machines, %v", ended, left, h.running(), d.List())
		}
	}
}

// TestDeleteThatCannotBeRecorded has a disk on which nothing at all can be stored, and a VM at rest, of which deleting frees nothing.
func TestDeleteThatCannotBeRecorded(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	full := []string{"store deleting", "store broken", "store gone"}
	for _, record := range full {
		h.failing(record, errBoom)
	}
	if err := d.Delete(t.Context(), "a", false, nil); !errors.Is(err, errBoom) || strings.Contains(err.Error(), "broken") {
		t.Errorf("the delete: %v; want the disk's error alone", err)
	}
	if state := d.state(t, "a"); state != model.Stopped {
		t.Errorf("it is %s", state)
	}
	for _, record := range full {
		h.failing(record, nil)
	}
	if err := d.Delete(t.Context(), "a", false, nil); err != nil || len(d.List()) != 0 {
		t.Errorf("with room again: %v, %v", err, d.List())
	}
}
