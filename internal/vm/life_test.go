package vm

import (
	"errors"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/vmm"
)

// TestPlan starts a VM and compares its timeline: the order of the steps is what a plan promises.
func TestPlan(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.started(t, model.Create{Name: "a"})
	var got []string
	for _, span := range v.Boot.Steps {
		got = append(got, span.Name)
	}
	if !slices.Equal(got, startSteps) {
		t.Errorf("got  %v\nwant %v", got, startSteps)
	}
}

func TestLife(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a", Env: map[string]string{"B": "vm"}})
	if v.State != model.Stopped || v.Spec.ImageID != "id-of-img" || v.Spec.Memory != 512*model.MiB {
		t.Fatalf("created: %+v", v)
	}
	v, err := d.Start(t.Context(), "a", model.Start{}, nil)
	if err != nil || v.State != model.Running || v.Boot == nil || len(v.Boot.Steps) != len(startSteps) || len(v.Boot.Guest) != 1 {
		t.Fatalf("started: %+v, %v", v, err)
	}
	if got := h.guest; got.Hostname != "a" || got.User != "app" || got.Workdir != "/app" ||
		!slices.Equal(got.Env, []string{"A=image", "B=image", "B=vm"}) || len(got.Entropy) < 32 || len(got.Files) != 2 || len(got.MachineID) != 32 {
		t.Errorf("the guest was told %+v", got)
	}
	var said []step.Event
	if _, err := d.Start(t.Context(), v.ID[:6], model.Start{}, func(e step.Event) { said = append(said, e) }); err != nil || len(said) != 1 || said[0].Phase != step.Skipped || said[0].Detail != "already running" {
		t.Errorf("starting again: %v, %v", said, err)
	}
	if err := d.Delete(t.Context(), "a", false, nil); fault.KindOf(err) != fault.WrongState || fault.HintOf(err) == "" {
		t.Errorf("deleting what runs: %v", err)
	}
	if v, err = d.Stop(t.Context(), "a", nil, nil); err != nil || v.State != model.Stopped || v.Runtime != nil || h.running() != 0 || v.LastError != nil {
		t.Fatalf("stopped: %+v, %v", v, err)
	}
	if _, err := os.Stat(h.layout.VM(v.ID).SystemDisk()); err != nil {
		t.Errorf("the system disk did not survive: %v", err)
	}
	if v, err = d.Restart(t.Context(), "a", nil, nil); err != nil || v.State != model.Running {
		t.Fatalf("restarted: %+v, %v", v, err)
	}
	if err := d.Delete(t.Context(), "a", true, nil); err != nil {
		t.Fatal(err)
	}
	if left := h.files(); len(left) != 0 || h.running() != 0 {
		t.Errorf("left: %v, %d machines", left, h.running())
	}
	if _, err := d.Get("a"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("after deletion: %v", err)
	}
	if h.called("records []") == 0 || h.called("records [a]") == 0 {
		t.Errorf("observers were told %v", h.calls)
	}
}

func TestRemoveOnStop(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a", Remove: model.RemoveOnStop})
	if _, err := d.Start(t.Context(), "a", model.Start{}, nil); err != nil {
		t.Fatal(err)
	}
	h.end(v, vmm.ExitPowerOff)
	waitFor(t, func() bool { _, err := d.Get("a"); return err != nil })
	waitFor(t, func() bool { return len(h.files()) == 0 })
}

func TestOneVMInOrderManyInParallel(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	for _, name := range []string{"a", "b", "c"} {
		d.create(t, model.Create{Name: name})
	}
	release := h.hanging("do assume")
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "a", "b", "c"} {
		wg.Go(func() {
			if v, err := d.Start(t.Context(), name, model.Start{}, nil); err != nil || v.State != model.Running {
				t.Errorf("%s: %s, %v", name, v.State, err)
			}
		})
	}
	waitFor(t, func() bool { return h.called("do assume") == 3 }) // three at once; the second start of each waits
	release()
	wg.Wait()
	if h.called("do assume") != 3 {
		t.Errorf("%d boots for three VMs", h.called("do assume"))
	}
}

func TestFailedImageLeavesNothing(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	h.failing("ensure image", errBoom)
	if _, err := d.Create(t.Context(), model.Create{Name: "a"}, nil); !errors.Is(err, errBoom) {
		t.Errorf("got %v", err)
	}
	if len(d.List()) != 0 || len(h.files()) != 0 {
		t.Errorf("left: %v, %v", d.List(), h.files())
	}
}

func TestPrune(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "stopped"})
	d.create(t, model.Create{Name: "runs"})
	d.Start(t.Context(), "runs", model.Start{}, nil)
	got, err := d.Prune(t.Context())
	if err != nil || !slices.Equal(got.Removed, []string{"stopped"}) || len(d.List()) != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestRunningHoldsItsImage has a running VM told to use another image: the one it runs on is in use until it stops.
func TestRunningHoldsItsImage(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	d.running(t, "a")
	if _, err := d.Set(t.Context(), "a", model.Change{Image: ptr("other")}); err != nil {
		t.Fatal(err)
	}
	inUse := func() (ids []string) {
		d.References(func(images, _ map[string][]string) error { ids = slices.Sorted(maps.Keys(images)); return nil })
		return ids
	}
	if got := inUse(); !slices.Equal(got, []string{"id-of-img", "other"}) {
		t.Errorf("while it runs: %v", got)
	}
	d.Stop(t.Context(), "a", nil, nil)
	if got := inUse(); !slices.Equal(got, []string{"other"}) {
		t.Errorf("after it stopped: %v", got)
	}
}
