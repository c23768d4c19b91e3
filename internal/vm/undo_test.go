package vm

import (
	"context"
	"os"
	"slices"
	"testing"

	"banger/internal/machine"
	"banger/internal/model"
)

// TestMachineThatWillNotEndKeepsItsThings fails a start whose machine then survives being killed: nothing is taken from under it, and the
// next daemon finds it.
func TestMachineThatWillNotEndKeepsItsThings(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a"})
	before := h.files()
	h.failing("do post-start/two", errBoom)
	h.failing("signal", errBoom)
	if got, err := d.Start(t.Context(), "a", model.Start{}, nil); err == nil || got.State != model.Broken {
		t.Fatalf("%s, %v", got.State, err)
	}
	files := h.layout.VM(v.ID)
	for _, path := range []string{files.Run, files.SystemDisk(), h.held(v, "one"), h.held(v, "two")} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("taken from under the machine: %v", err)
		}
	}
	h.failing("signal", nil)
	d.die()
	d = h.daemon()
	if after := h.files(); d.state(t, "a") != model.Stopped || h.running() != 0 || !slices.Equal(before, after) {
		t.Errorf("%s, %d machines, %v; before %v", d.state(t, "a"), h.running(), after, before)
	}
}

// announcer is a capability that makes something only when the guest has come up.
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
	d.running(t, "a")
	if _, err := d.Stop(t.Context(), "a", nil, nil); err != nil || h.called("withdraw") != 1 {
		t.Errorf("withdrawn %d times after a stop, %v", h.called("withdraw"), err)
	}
	h.failing("announce", errBoom)
	if _, err := d.Start(t.Context(), "a", model.Start{}, nil); err == nil || h.called("withdraw") != 2 {
		t.Errorf("withdrawn %d times after a failed start as well, %v", h.called("withdraw"), err)
	}
}
