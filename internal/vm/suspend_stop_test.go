package vm

import (
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
		t.Run(string(state), func(t *testing.T) {
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.bring(t, v, state)
			var said []step.Event
			got, err := d.Stop(t.Context(), "a", nil, func(e step.Event) { said = append(said, e) })
			wantEnds(t, "the stop", model.Stopped)(got, err)
			h.wantMachines(t, 0)
			wantPoweredOff(t, said)
			d.nothingSaved(t)
		})
	}
}

// TestStopWithoutAGuest ends a paused VM whose guest cannot be let go on, and asks nobody when it shall not wait for anybody.
func TestStopWithoutAGuest(t *testing.T) {
	t.Parallel()
	for _, state := range []model.State{model.Paused, model.Suspended} {
		t.Run(string(state), func(t *testing.T) {
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.bring(t, v, state)
			h.failing("thaw", errBoom)
			h.failing("restore", errBoom)
			if state == model.Suspended {
				wantFails(t, "memory that cannot be used", errBoom, state)(d.Stop(t.Context(), "a", nil, nil))
			}
			wait := time.Duration(0)
			if state == model.Paused {
				wait = 10 * time.Second
			}
			wantEnds(t, "the stop", model.Stopped)(d.Stop(t.Context(), "a", &wait, nil))
			h.wantMachines(t, 0)
			d.nothingSaved(t)
		})
	}
}

// TestRemovalOfSuspended: a suspension is no stop, but its end can be one.
func TestRemovalOfSuspended(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *daemon){
		"stop": func(t *testing.T, d *daemon) { d.Stop(t.Context(), "a", nil, nil) },
		"kill": func(t *testing.T, d *daemon) { d.Kill(t.Context(), "a", syscall.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a", Remove: model.RemoveOnStop})
			d.suspend(t, v)
			d.die()
			d = h.daemon()
			d.wantState(t, "a", model.Suspended)
			end(t, d)
			h.wantFiles(t, nil)
			d.wantVMs(t, 0)
		})
	}
	for _, state := range []model.State{model.Paused, model.Suspended} {
		t.Run("detached when "+string(state), func(t *testing.T) {
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a", Remove: model.RemoveOnDetach})
			d.bring(t, v, state)
			d.die() // and the client with it
			d = h.daemon()
			h.wantNothingLeft(t)
			d.wantVMs(t, 0)
		})
	}
}
