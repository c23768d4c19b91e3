package vm

import (
	"syscall"
	"testing"
	"time"

	"banger/internal/model"
	"banger/internal/step"
)

// TestStopLetsTheGuestPowerOff stops paused and suspended VMs. Only a guest that runs can close
// its files.
func TestStopLetsTheGuestPowerOff(t *testing.T) {
	t.Parallel()
	for _, state := range []model.State{model.Paused, model.Suspended} {
		t.Run(string(state), func(t *testing.T) {
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.bringTo(t, v, state)
			var reported []step.Event
			got, err := d.Stop(t.Context(), "a", nil, func(e step.Event) { reported = append(reported, e) })
			wantEnds(t, "the stop", model.Stopped)(got, err)
			h.wantMachines(t, 0)
			wantPoweredOff(t, reported)
			d.wantNothingSaved(t)
		})
	}
}

// TestStopOfAPausedVMOnAFullDisk: a guest that is paused powers off although nothing can be
// recorded before its machine has ended.
func TestStopOfAPausedVMOnAFullDisk(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	d.pause(t, d.worker(t, model.Create{Name: "a"}))
	defer h.fullDisk("store pausing", "store running", "store stopping")()
	var reported []step.Event
	got, err := d.Stop(t.Context(), "a", ptr(time.Minute), func(e step.Event) { reported = append(reported, e) })
	wantEnds(t, "the stop", model.Stopped)(got, err)
	wantPoweredOff(t, reported)
	wantNoLastError(t, got)
	h.wantCalls(t, "power-off", 1)
}

// TestStopOfAGuestThatCannotBeResumed checks that a paused guest that cannot be resumed is ended,
// and that a stop without waiting does not resume anything.
func TestStopOfAGuestThatCannotBeResumed(t *testing.T) {
	t.Parallel()
	for _, state := range []model.State{model.Paused, model.Suspended} {
		t.Run(string(state), func(t *testing.T) {
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.bringTo(t, v, state)
			h.failing("thaw", errBoom)
			h.failing("restore", errBoom)
			if state == model.Suspended {
				wantFails(t, "memory that cannot be used", errBoom, state)(d.Stop(t.Context(), "a", nil, nil))
			}
			wait, want := time.Duration(0), wantEnds
			if state == model.Paused {
				wait, want = 10*time.Second, wantLoses
			}
			want(t, "the stop", model.Stopped)(d.Stop(t.Context(), "a", &wait, nil))
			h.wantMachines(t, 0)
			d.wantNothingSaved(t)
		})
	}
}

// TestRemovalOfSuspended checks removal policies: a suspension is no stop, but a suspended VM can
// be stopped.
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
			d.bringTo(t, v, state)
			d.die() // and the client with it
			d = h.daemon()
			h.wantNothingLeft(t)
			d.wantVMs(t, 0)
		})
	}
}
