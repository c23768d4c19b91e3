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

// TestPlan compares the timeline of a start with the order of steps that the plan promises.
func TestPlan(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.started(t, model.Create{Name: "a"})
	var got []string
	for _, span := range v.Boot.Steps {
		got = append(got, span.Name)
	}
	if !slices.Equal(got, startSteps) {
		t.Errorf("the start had the steps\n%v, not\n%v", got, startSteps)
	}
}

// TestLifecycle creates, starts, stops, restarts and deletes a VM.
func TestLifecycle(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a", Env: map[string]string{"B": "vm"}})
	equal(t, "a new VM", v.State, model.Stopped)
	equal(t, "its image", v.Spec.ImageID, "id-of-img")
	equal(t, "its memory", v.Spec.Memory, 512*model.MiB)
	v, err := d.Start(t.Context(), "a", model.Start{}, nil)
	wantEnds(t, "the start", model.Running)(v, err)
	if v.Boot == nil {
		t.Fatal("the start is not described")
	}
	equal(t, "the number of steps of the start", len(v.Boot.Steps), len(startSteps))
	equal(t, "the number of marks that the guest reported", len(v.Boot.Guest), 1)
	got := h.guest
	equal(t, "the guest's host name", got.Hostname, "a")
	equal(t, "the guest's user", got.User, "app")
	equal(t, "the guest's working directory", got.Workdir, "/app")
	equalLists(t, "the guest's variables", got.Env, []string{"A=image", "B=image", "B=vm"})
	claim(t, len(got.Entropy) >= 32, "the guest got %d bytes of entropy: at least 32 are wanted", len(got.Entropy))
	equal(t, "the number of files that capabilities contributed", len(got.Files), 2)
	equal(t, "the length of the machine id", len(got.MachineID), 32)
	var reported []step.Event
	if _, err := d.Start(t.Context(), v.ID[:6], model.Start{}, func(e step.Event) { reported = append(reported, e) }); err != nil {
		t.Errorf("starting again: %v", err)
	}
	wantSkipped(t, reported)
	if len(reported) > 0 {
		equal(t, "the reason for skipping", reported[0].Detail, "already running")
	}
	err = d.Delete(t.Context(), "a", false, nil)
	wantKind(t, "deleting a running VM", err, fault.WrongState)
	wantHint(t, "deleting a running VM", err, "")
	v, err = d.Stop(t.Context(), "a", nil, nil)
	wantEnds(t, "the stop", model.Stopped)(v, err)
	wantNoRuntime(t, v)
	wantNoLastError(t, v)
	h.wantMachines(t, 0)
	if _, err := os.Stat(h.layout.VM(v.ID).SystemDisk()); err != nil {
		t.Errorf("the system disk did not survive: %v", err)
	}
	wantEnds(t, "the restart", model.Running)(d.Restart(t.Context(), "a", nil, nil))
	if err := d.Delete(t.Context(), "a", true, nil); err != nil {
		t.Fatal(err)
	}
	h.wantFiles(t, nil)
	h.wantMachines(t, 0)
	if _, err := d.Get("a"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("looking up the deleted VM returned %v", err)
	}
	claim(t, h.called("records [a]") > 0, "no capability got the VM's record")
	claim(t, h.called("records []") > 0, "no capability got the record's removal")
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
			wantEnds(t, "the start", model.Running)(d.Start(t.Context(), name, model.Start{}, nil))
		})
	}
	// Three start at once. The second start of each VM waits.
	waitFor(t, func() bool { return h.called("do assume") == 3 })
	release()
	wg.Wait()
	h.wantCalls(t, "do assume", 3)
}

func TestFailedImageLeavesNothing(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	h.failing("ensure image", errBoom)
	if _, err := d.Create(t.Context(), model.Create{Name: "a"}, nil); !errors.Is(err, errBoom) {
		t.Errorf("the creation returned %v, not the error of its hook", err)
	}
	d.wantVMs(t, 0)
	h.wantFiles(t, nil)
}

func TestPrune(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "stopped"})
	d.create(t, model.Create{Name: "runs"})
	d.Start(t.Context(), "runs", model.Start{}, nil)
	got, err := d.Prune(t.Context())
	if err != nil {
		t.Error(err)
	}
	equalLists(t, "the removed VMs", got.Removed, []string{"stopped"})
	d.wantVMs(t, 1)
}

// TestRunningHoldsItsImage changes the image of a running VM. The image that the VM runs on is in
// use until it stops.
func TestRunningHoldsItsImage(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	d.start(t, "a")
	if _, err := d.Set(t.Context(), "a", model.Change{Image: ptr("other")}); err != nil {
		t.Fatal(err)
	}
	inUse := func() (ids []string) {
		d.References(func(images, _ map[string][]string) error { ids = slices.Sorted(maps.Keys(images)); return nil })
		return ids
	}
	if got := inUse(); !slices.Equal(got, []string{"id-of-img", "other"}) {
		t.Errorf("while the VM runs, the images in use are %v", got)
	}
	d.Stop(t.Context(), "a", nil, nil)
	if got := inUse(); !slices.Equal(got, []string{"other"}) {
		t.Errorf("after the VM's stop, the images in use are %v", got)
	}
}
