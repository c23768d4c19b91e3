package vm

import (
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/limit"
	"banger/internal/model"
)

func TestSet(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a", Env: map[string]string{"KEEP": "1", "DROP": "1"}})
	got, err := d.Set(t.Context(), "a", model.Change{VCPUs: ptr(2), UnsetEnv: []string{"DROP"}})
	if err != nil {
		t.Errorf("changing a stopped VM: %v", err)
	}
	equalLists(t, "the changes that a stopped VM applied", got.Applied, []string{"vcpus", "env"})
	equalLists(t, "the changes that a stopped VM left pending", got.Pending, nil)
	if _, err := d.Start(t.Context(), "a", model.Start{}, nil); err != nil {
		t.Fatal(err)
	}
	got, err = d.Set(t.Context(), "a", model.Change{
		Memory: ptr(model.GiB), DiskSize: ptr(96 * model.MiB), Env: map[string]string{"NEW": "1"},
	})
	if err != nil {
		t.Errorf("changing a running VM: %v", err)
	}
	equalLists(t, "the changes that a running VM applied", got.Applied, []string{"disk_size"})
	equalLists(t, "the changes that a running VM left pending", got.Pending, []string{"memory", "env"})
	info, err := os.Stat(h.layout.VM(v.ID).SystemDisk())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the size of the grown disk", info.Size(), int64(96*model.MiB))
	h.wantCalls(t, "drive", 1)
	h.wantCalls(t, "resize system", 1)
	got, _ = d.Set(t.Context(), "a", model.Change{VCPUs: ptr(3)})
	if !slices.Equal(got.VM.Pending, []string{"env", "memory", "vcpus"}) {
		t.Errorf("the pending changes are %v", got.VM.Pending)
	}
	v, err = d.Restart(t.Context(), "a", nil, nil)
	if err != nil {
		t.Errorf("the restart: %v", err)
	}
	equalLists(t, "the changes pending after a restart", v.Pending, nil)
	equal(t, "the number of vCPUs after a restart", v.Spec.VCPUs, 3)
	claim(t, maps.Equal(v.Spec.Env, map[string]string{"KEEP": "1", "NEW": "1"}),
		"the variables after a restart are %v", v.Spec.Env)
}

func TestSetRefuses(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	before := d.create(t, model.Create{Name: "a"})
	for what, change := range map[string]model.Change{
		"a smaller disk": {DiskSize: ptr(32 * model.MiB)},
		"no vcpus":       {VCPUs: ptr(-1)},
		"a bad variable": {Env: map[string]string{"A B": ""}},
	} {
		if _, err := d.Set(t.Context(), "a", change); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s was not refused: %v", what, err)
		}
	}
	after, _ := d.Get("a")
	if len(model.ChangedFields(before.Spec, after.Spec)) != 0 {
		t.Errorf("a refused change was made: %+v", after.Spec)
	}
}

func TestAnotherImageGetsAFreshSystemDisk(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a"})
	d.Start(t.Context(), "a", model.Start{}, nil)
	d.Stop(t.Context(), "a", nil, nil)
	path := h.layout.VM(v.ID).SystemDisk()
	first, _ := os.Stat(path)
	d.Start(t.Context(), "a", model.Start{}, nil)
	d.Stop(t.Context(), "a", nil, nil)
	if second, _ := os.Stat(path); !os.SameFile(first, second) {
		t.Error("the disk was made again although the image is the same")
	}
	if _, err := d.Set(t.Context(), "a", model.Change{Image: ptr("other")}); err != nil {
		t.Fatal(err)
	}
	d.Start(t.Context(), "a", model.Start{}, nil)
	if third, _ := os.Stat(path); os.SameFile(first, third) {
		t.Error("the other image lies under the first image's changes")
	}
}

// TestStartAcceptsALargerDisk interrupts a change after the disk's file has grown and before the
// record has. The VM can still be started.
func TestStartAcceptsALargerDisk(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a"})
	d.start(t, "a")
	h.failing("resize system", errBoom)
	if _, err := d.Set(t.Context(), "a", model.Change{DiskSize: ptr(96 * model.MiB)}); !errors.Is(err, errBoom) {
		t.Fatalf("the change returned %v, not the error of its hook", err)
	}
	wantEnds(t, "the restart", model.Running)(d.Restart(t.Context(), "a", nil, nil))
	wantSize(t, h.layout.VM(v.ID).SystemDisk(), 96*model.MiB)
}

// TestSetOnAHungGuest checks that a change that hangs in the guest does not block the pruning of
// images.
func TestSetOnAHungGuest(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	d.start(t, "a")
	release := h.hanging("resize system")
	errs := make(chan error)
	go func() {
		_, err := d.Set(t.Context(), "a", model.Change{DiskSize: ptr(96 * model.MiB), Image: ptr("other")})
		errs <- err
	}()
	waitFor(t, func() bool { return h.called("resize system") > 0 })
	free := make(chan struct{})
	go func() {
		defer close(free)
		d.References(func(images, _ map[string][]string) error {
			// otherwise the change would fail after the guest had taken a part of it
			equalLists(t, "the users of the image that the VM is going to have", images["other"], []string{"a"})
			return nil
		})
	}()
	select {
	case <-free:
	case <-time.After(5 * time.Second):
		t.Error("a hung guest blocks the pruning of images")
	}
	release()
	if err := <-errs; err != nil {
		t.Error(err)
	}
	<-free
}

// TestImpossibleMemory asks for more memory than this host has: a new VM and a change are refused,
// and a VM that has it by an older record does not start.
func TestImpossibleMemory(t *testing.T) {
	if limit.CheckMemory(model.MaxMemory) == nil {
		t.Skip("this host can promise every guest its memory")
	}
	h := newHost(t)
	d := h.daemon()
	refused := func(what string, err error) {
		t.Helper()
		equal(t, "the kind of the error of "+what, fault.KindOf(err), fault.Unsupported)
		if err == nil || !strings.Contains(err.Error(), "memory: 1T is more than this host has") {
			t.Errorf("%s: %v; want the numbers", what, err)
		}
	}
	_, err := d.Create(t.Context(), model.Create{Name: "b", Memory: model.MaxMemory}, nil)
	refused("a creation", err)
	v := d.create(t, model.Create{Name: "a"})
	_, err = d.Set(t.Context(), "a", model.Change{Memory: ptr(model.MaxMemory)})
	refused("a change", err)
	e, err := d.find(v.ID)
	if err == nil {
		err = d.rewrite(t.Context(), e, func(v *model.VM) { v.Spec.Memory = model.MaxMemory })
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Start(t.Context(), "a", model.Start{}, nil)
	refused("a start", err)
}
