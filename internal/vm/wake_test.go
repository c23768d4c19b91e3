package vm

import (
	"testing"

	"banger/internal/model"
	"banger/internal/vmm"
)

// TestWake checks which guests are woken, and so rehearse a command: those that an emulator
// restores for a person who waits for this one machine.
func TestWake(t *testing.T) {
	t.Parallel()
	template := func(t *testing.T, h *host) {
		v := h.withTemplates(t, model.Create{}).started(t, model.Create{})
		wantOrigin(t, v, model.FromTemplate)
	}
	for name, tt := range map[string]struct {
		accel string
		start func(*testing.T, *host)
		want  int
	}{
		"template": {vmm.AccelTCG, template, 1},
		"real CPU": {vmm.AccelKVM, template, 0},
		"universal": {vmm.AccelTCG, func(t *testing.T, h *host) {
			wantOrigin(t, h.withTemplates(t, model.Create{}).started(t, model.Create{Image: "other"}), model.FromUniversal)
		}, 1},
		"standby": {vmm.AccelTCG, func(t *testing.T, h *host) { h.withStandby(t, model.Create{}).launch(t, model.Create{}) }, 0},
		"boot":    {vmm.AccelTCG, func(t *testing.T, h *host) { h.daemon().started(t, model.Create{}) }, 0},
		"resume": {vmm.AccelTCG, func(t *testing.T, h *host) {
			d := h.daemon()
			v := d.started(t, model.Create{})
			d.suspend(t, v)
			d.resume(t, v)
		}, 1},
		"restored": {vmm.AccelTCG, func(t *testing.T, h *host) {
			d := h.daemon()
			d.snap(t, d.started(t, model.Create{}), "s")
			d.restore(t, "s", model.Restore{})
		}, 1},
		"restored in place": {vmm.AccelTCG, func(t *testing.T, h *host) {
			d := h.daemon()
			v := d.started(t, model.Create{})
			d.snap(t, v, "s")
			if _, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: v.ID, Force: true}, nil); err != nil {
				t.Error(err)
			}
		}, 1},
		"fork": {vmm.AccelTCG, func(t *testing.T, h *host) {
			d := h.daemon()
			d.fork(t, d.started(t, model.Create{}), model.Fork{})
		}, 1},
		"forks": {vmm.AccelTCG, func(t *testing.T, h *host) {
			d := h.daemon()
			d.fork(t, d.started(t, model.Create{}), model.Fork{Count: 2})
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.accel = tt.accel
			tt.start(t, h)
			h.wantCalls(t, "wake", tt.want)
		})
	}
}
