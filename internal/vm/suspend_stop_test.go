package vm

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"banger/internal/model"
	"banger/internal/step"
)

// TestStopLetsTheGuestPowerOff although it was paused or suspended: only a guest that runs can close its files.
func TestStopLetsTheGuestPowerOff(t *testing.T) {
	t.Parallel()
	for _, state := range []model.State{model.Paused, model.Suspended} {
		h := newHost(t)
		d := h.daemon()
		v := d.worker(t, model.Create{Name: "a"})
		d.bring(t, v, state)
		var said []step.Event
		got, err := d.Stop(t.Context(), "a", nil, func(e step.Event) { said = append(said, e) })
		if err != nil || got.State != model.Stopped || h.running() != 0 {
			t.Errorf("%s: %s, %v, %d machines", state, got.State, err, h.running())
		}
		if len(said) == 0 || said[len(said)-1].Step != "power-off" || said[len(said)-1].Phase != step.Done {
			t.Errorf("%s: %v", state, said)
		}
		d.nothingSaved(t)
	}
}

// TestStopWithoutAGuest ends a paused VM whose guest cannot be let go on, and asks nobody when it shall not wait for anybody.
func TestStopWithoutAGuest(t *testing.T) {
	t.Parallel()
	for _, state := range []model.State{model.Paused, model.Suspended} {
		h := newHost(t)
		d := h.daemon()
		v := d.worker(t, model.Create{Name: "a"})
		d.bring(t, v, state)
		h.failing("thaw", errBoom)
		h.failing("restore", errBoom)
		if state == model.Suspended {
			if got, err := d.Stop(t.Context(), "a", nil, nil); !errors.Is(err, errBoom) || got.State != state {
				t.Errorf("memory that cannot be used: %s, %v", got.State, err)
			}
		}
		wait := time.Duration(0)
		if state == model.Paused {
			wait = 10 * time.Second
		}
		if got, err := d.Stop(t.Context(), "a", &wait, nil); err != nil || got.State != model.Stopped || h.running() != 0 {
			t.Errorf("%s: %s, %v, %d machines", state, got.State, err, h.running())
		}
		d.nothingSaved(t)
	}
}

// TestRemovalOfSuspended: a suspension is no stop, but its end can be one.
func TestRemovalOfSuspended(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *daemon){
		"stop": func(t *testing.T, d *daemon) { d.Stop(t.Context(), "a", nil, nil) },
		"kill": func(t *testing.T, d *daemon) { d.Kill(t.Context(), "a", syscall.SIGKILL) },
	} {
		h := newHost(t)
		d := h.daemon()
		v := d.worker(t, model.Create{Name: "a", Remove: model.RemoveOnStop})
		d.suspend(t, v)
		d.die()
		d = h.daemon()
		if got := d.state(t, "a"); got != model.Suspended {
			t.Fatalf("%s: after a restart of the daemon it is %s", name, got)
		}
		end(t, d)
		if left := h.files(); len(left) != 0 || len(d.List()) != 0 {
			t.Errorf("%s: left: %v", name, left)
		}
	}
	for _, state := range []model.State{model.Paused, model.Suspended} {
		h := newHost(t)
		d := h.daemon()
		v := d.worker(t, model.Create{Name: "a", Remove: model.RemoveOnDetach})
		d.bring(t, v, state)
		d.die() // and whoever it was made for with it
		d = h.daemon()
		if left := h.files(); len(left) != 0 || len(d.List()) != 0 || h.running() != 0 {
			t.Errorf("%s: left: %v, %d machines", state, left, h.running())
		}
	}
}
