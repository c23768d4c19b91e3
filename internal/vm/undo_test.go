package vm

import (
	"context"
	"os"
	"testing"

	"banger/internal/machine"
	"banger/internal/model"
)

// TestMachineThatSurvivesAKillKeepsItsFiles fails a start whose machine survives being killed. The
// machine keeps its files, and the next daemon finds it.
func TestMachineThatSurvivesAKillKeepsItsFiles(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a"})
	before := h.files()
	h.failing("do post-start/two", errBoom)
	h.failing("signal", errBoom)
	got, err := d.Start(t.Context(), "a", model.Start{}, nil)
	claim(t, err != nil, "a start with a failing hook succeeded")
	equal(t, "a VM whose machine survives being killed", got.State, model.Broken)
	files := h.layout.VM(v.ID)
	for _, path := range []string{files.Run, files.SystemDisk(), h.held(v, "one"), h.held(v, "two")} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("a machine that still runs has lost a file: %v", err)
		}
	}
	h.failing("signal", nil)
	d.die()
	d = h.daemon()
	d.wantState(t, "a", model.Stopped)
	h.wantMachines(t, 0)
	h.wantFiles(t, before)
}

// announcer is a capability that makes something only after the guest has started.
type announcer struct{ h *host }

func (announcer) Name() string { return "announcer" }
func (a announcer) PostStart(ctx context.Context, _ machine.PostStartRequest) error {
	return a.h.hook(ctx, "announce")
}
func (a announcer) Cleanup(ctx context.Context, _ machine.CleanupRequest) error {
	return a.h.hook(ctx, "withdraw")
}

func TestWhatPostStartMadeIsCleanedUp(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.core.host.Capabilities = append(d.core.host.Capabilities, announcer{h})
	d.create(t, model.Create{Name: "a"})
	d.start(t, "a")
	wantEnds(t, "the stop", model.Stopped)(d.Stop(t.Context(), "a", nil, nil))
	h.wantCalls(t, "withdraw", 1)
	h.failing("announce", errBoom)
	if _, err := d.Start(t.Context(), "a", model.Start{}, nil); err == nil {
		t.Error("a start with a failing hook succeeded")
	}
	h.wantCalls(t, "withdraw", 2)
}
