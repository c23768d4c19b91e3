package vm

import (
	"context"
	"fmt"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestPruneSparesALaunch prunes while a launched VM exists but has not started, and so is as
// stopped as any other.
func TestPruneSparesALaunch(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	type result struct {
		model.Pruned
		err error
	}
	pruned := make(chan result, 1)
	v, err := d.Launch(t.Context(), model.Create{Name: "a"}, func(v model.VM) {
		equal(t, "the name of the new VM", v.Spec.Name, "a")
		equal(t, "the VM before its start", v.State, model.Stopped)
		e, err := d.find(v.ID)
		if err != nil {
			t.Fatal(err)
		}
		go func() { got, err := d.Prune(t.Context()); pruned <- result{got, err} }()
		waitFor(t, func() bool { return e.Lock.Waiting() == 1 })
	}, nil)
	wantEnds(t, "the launch", model.Running)(v, err)
	got := <-pruned
	if got.err != nil {
		t.Error(got.err)
	}
	claim(t, len(got.Removed) == 0, "the prune removed %v", got.Removed)
	d.wantState(t, "a", model.Running)
}

// TestCancelledLaunch cancels a launch during its boot. Nothing of the VM stays. Until then the
// launch does not block requests for the images in use.
func TestCancelledLaunch(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	defer h.hanging("do assume")()
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	go func() { _, err := d.Launch(ctx, model.Create{Name: "a"}, func(model.VM) {}, nil); errs <- err }()
	waitFor(t, func() bool { return h.called("do assume") > 0 })
	if err := d.References(func(images, _ map[string][]string) error {
		if len(images) != 1 {
			t.Errorf("the launched VM's image is the one in use, not %v", images)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	cancel()
	wantKind(t, "the cancelled launch", <-errs, fault.Canceled)
	h.wantNothingLeft(t)
	d.wantVMs(t, 0)
	claim(t, h.called("records []") > 0, "no capability got the record's removal")
}

// TestDeleteCancelsALaunch deletes a VM whose launch hangs.
func TestDeleteCancelsALaunch(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	defer h.hanging("do agent")()
	errs := make(chan error)
	go func() { _, err := d.Launch(t.Context(), model.Create{Name: "a"}, func(model.VM) {}, nil); errs <- err }()
	waitFor(t, func() bool { return h.called("do agent") > 0 })
	if err := d.Delete(t.Context(), "a", true, nil); err != nil {
		t.Error(err)
	}
	wantKind(t, "the cancelled launch", <-errs, fault.Canceled)
	h.wantFiles(t, nil)
	d.wantVMs(t, 0)
}

// TestFailedLaunchStays checks that a VM stays after a failed launch, so that a person can look
// into the failure.
func TestFailedLaunchStays(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	h.failing("do agent", errBoom)
	v, err := d.Launch(t.Context(), model.Create{Name: "a"}, func(model.VM) {}, nil)
	wantFails(t, "the launch", errBoom, model.Failed)(v, err)
	if v.ID == "" {
		t.Fatal("a failed launch does not return the VM that stays")
	}
	d.wantState(t, v.ID, model.Failed)
}

// TestVCPUs checks where the number of vCPUs comes from: the request, otherwise the defaults,
// otherwise what the driver recommends for the image.
func TestVCPUs(t *testing.T) {
	for _, tt := range []struct {
		image  string
		oneCPU string
		usual  int
		asked  *int
		want   int
	}{
		{image: "img", want: 2},
		{image: "img", oneCPU: "it is old", want: 2},
		{image: imageWithInit, want: 2},
		{image: imageWithInit, oneCPU: "it is old", want: 1},
		{image: imageWithInit, oneCPU: "it is old", asked: ptr(4), want: 4},
		{image: imageWithInit, oneCPU: "it is old", usual: 3, want: 3},
		{image: imageWithInit, oneCPU: "it is old", usual: 3, asked: ptr(0), want: 1},
	} {
		h := newHost(t)
		h.oneCPU = tt.oneCPU
		d := h.daemon()
		d.Defaults.VCPUs = tt.usual
		v, err := d.Create(t.Context(), model.Create{Image: tt.image, VCPUs: tt.asked}, nil)
		if err != nil {
			t.Fatalf("%+v: %v", tt, err)
		}
		equal(t, fmt.Sprintf("%+v: the number of vCPUs", tt), v.Spec.VCPUs, tt.want)
		anew := 2
		if tt.image == imageWithInit && tt.oneCPU != "" {
			anew = 1
		}
		if changed, err := d.Set(t.Context(), v.ID, model.Change{VCPUs: ptr(0)}); err != nil {
			t.Errorf("%+v: %v", tt, err)
		} else {
			equal(t, fmt.Sprintf("%+v: the number of vCPUs, chosen again,", tt), changed.VM.Spec.VCPUs, anew)
		}
		if changed, err := d.Set(t.Context(), v.ID, model.Change{Image: ptr("other"), VCPUs: ptr(0)}); err != nil {
			t.Errorf("%+v: %v", tt, err)
		} else {
			equal(t, fmt.Sprintf("%+v: the number of vCPUs for another image", tt), changed.VM.Spec.VCPUs, 2)
		}
		if _, err := d.Create(t.Context(), model.Create{Image: tt.image, VCPUs: ptr(-1)}, nil); fault.KindOf(err) != fault.Invalid {
			t.Errorf("a negative number of vCPUs returned %v", err)
		}
	}
}
