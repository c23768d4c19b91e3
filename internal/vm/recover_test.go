package vm

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"banger/internal/disk"
	"banger/internal/model"
)

// TestRecoveryIsNotCutOff ends the daemon while it recovers: what runs is adopted all the same. A record that called it broken would have the
// next start-up end a machine that is well.
func TestRecoveryIsNotCutOff(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	d.running(t, "a")
	d.die()
	ctx, cancel := context.WithCancel(t.Context())
	release := h.hanging("adopt")
	adopting := h.called("adopt")
	done := make(chan *daemon)
	go func() { done <- h.daemonWithin(ctx) }()
	waitFor(t, func() bool { return h.called("adopt") > adopting })
	cancel()
	release()
	d = <-done
	if got, err := d.Get("a"); err != nil || got.State != model.Running || h.running() != 1 {
		t.Errorf("%+v, %v; %d machines", got, err, h.running())
	}
}

// TestAdoptionIsTriedAgain has a daemon that cannot adopt a machine (too many open files, a state of a newer version): it says so, ends nothing,
// and the next one may.
func TestAdoptionIsTriedAgain(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	d.running(t, "a")
	d.die()
	h.failing("adopt", errBoom)
	d = h.daemon()
	if got, err := d.Get("a"); err != nil || got.State != model.Broken || got.LastError == nil || got.LastError.Hint == "" {
		t.Errorf("%+v, %v", got, err)
	}
	d.die()
	h.failing("adopt", nil)
	d = h.daemon()
	if d.state(t, "a") != model.Running || h.running() != 1 {
		t.Errorf("%s, %d machines", d.state(t, "a"), h.running())
	}
	d.die()
	h.failing("adopt", errBoom)
	d = h.daemon()
	h.failing("adopt", nil)
	v, err := d.Stop(t.Context(), "a", nil, nil)
	if err != nil || v.State != model.Stopped || h.running() != 0 {
		t.Errorf("stopping it: %s, %v, %d machines", v.State, err, h.running())
	}
	if v.LastError == nil || v.LastError.Hint != "" {
		t.Errorf("what is left to be known of it: %+v", v.LastError)
	}
}

// TestKilledWhileMakingADisk finds what mkfs was at when the daemon died.
func TestKilledWhileMakingADisk(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a"})
	d.running(t, "a")
	e, err := d.find("a")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.update(t.Context(), e, func(v *model.VM) { v.State = model.Stopping }); err != nil { // any state in between
		t.Fatal(err)
	}
	d.die()
	temp := filepath.Join(h.layout.VM(v.ID).Dir, disk.TempPrefix+"work.ext4-123")
	if err := os.WriteFile(temp, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.daemon()
	if _, err := os.Stat(temp); err == nil {
		t.Error("it is still there")
	}
}

// running starts a VM.
func (d *daemon) running(t *testing.T, ref string) {
	t.Helper()
	if v, err := d.Start(t.Context(), ref, nil); err != nil || v.State != model.Running {
		t.Fatalf("%s, %v", v.State, err)
	}
}
