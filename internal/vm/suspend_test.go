package vm

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	var said []step.Event
	report := func(e step.Event) { said = append(said, e) }
	for range 2 {
		if got, err := d.Pause(t.Context(), "a", report); err != nil || got.State != model.Paused || got.Runtime == nil {
			t.Fatalf("%+v, %v", got, err)
		}
		if !h.computer.Halted(v.ID) || !h.look(v).Frozen {
			t.Errorf("halted: %v, processes held: %v", h.computer.Halted(v.ID), h.look(v).Frozen)
		}
	}
	if len(said) != 1 || said[0].Phase != step.Skipped {
		t.Errorf("pausing twice said %v", said)
	}
	if _, err := d.Agent("a"); fault.KindOf(err) != fault.WrongState || !strings.Contains(fault.HintOf(err), "resume") {
		t.Errorf("the agent of a paused VM: %v, hint %q", err, fault.HintOf(err))
	}
	said = nil
	for range 2 {
		if got, err := d.Resume(t.Context(), "a", report); err != nil || got.State != model.Running {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	if len(said) != 1 || said[0].Phase != step.Skipped {
		t.Errorf("resuming twice said %v", said)
	}
	d.goesOn(t, v)
	d.pause(t, v)
	if got, err := d.Start(t.Context(), "a", model.Start{}, nil); err != nil || got.State != model.Running || !got.Started.Equal(*v.Started) {
		t.Errorf("starting a paused VM: %+v, %v", got, err)
	}
	d.goesOn(t, v)
}

func TestSuspendAndResume(t *testing.T) {
	t.Parallel()
	for _, from := range []model.State{model.Running, model.Paused} {
		t.Run(string(from), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.homes = true
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a", WorkDiskSize: ptr(64 * model.MiB)})
			before := h.files()
			if from == model.Paused {
				d.pause(t, v)
			}
			d.suspend(t, v)
			got, _ := d.Get("a")
			if h.running() != 0 || got.Runtime != nil || got.Network != nil || got.Stopped == nil || got.LastError != nil {
				t.Errorf("%d machines, %+v", h.running(), got)
			}
			for _, path := range []string{h.layout.VM(v.ID).Run, h.held(v, "one"), h.held(v, "two")} {
				if _, err := os.Stat(path); err == nil {
					t.Errorf("%s is still there", path)
				}
			}
			var said []step.Event
			if _, err := d.Suspend(t.Context(), "a", func(e step.Event) { said = append(said, e) }); err != nil || len(said) != 1 || said[0].Phase != step.Skipped {
				t.Errorf("suspending it again: %v, %v", said, err)
			}
			d.die() // a reboot does not matter
			d = h.daemon()
			got, err := d.Resume(t.Context(), "a", nil)
			if err != nil || got.State != model.Running || got.Stopped != nil || !got.Started.Equal(*v.Started) {
				t.Fatalf("%+v, %v", got, err)
			}
			if got.Boot == nil || got.Boot.Cold || got.Boot.Origin == nil || got.Boot.Origin.Kind != model.FromSuspended {
				t.Errorf("it went on as %+v", got.Boot)
			}
			if g := h.look(v); g.Forks != 0 || g.Name != "a" {
				t.Errorf("the guest has become another one: %+v", g)
			}
			d.goesOn(t, v)
			if after := h.files(); !slices.Equal(before, after) {
				t.Errorf("files before %v, after %v", before, after)
			}
		})
	}
}

// TestSuspendTwice leaves nothing of the first suspension in the way of the second, whatever became of it.
func TestSuspendTwice(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	old := filepath.Join(t.TempDir(), "old")
	h.command("cp", "-a", h.layout.VM(v.ID).Suspended(), old)
	d.resume(t, v)
	h.command("cp", "-a", old, h.layout.VM(v.ID).Suspended()) // the daemon died before it could remove it
	h.inGuest(v.ID, func(g *guest) { g.Data = "more" })
	d.suspend(t, v)
	d.resume(t, v)
	if got := h.look(v).Data; got != "more" {
		t.Errorf("it went on with %q", got)
	}
	d.nothingSaved(t)
}

// TestPausedSurvivesTheDaemon as it is.
func TestPausedSurvivesTheDaemon(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.pause(t, v)
	d.die()
	d = h.daemon()
	if d.state(t, "a") != model.Paused || !h.computer.Halted(v.ID) || !h.look(v).Frozen {
		t.Errorf("it is %s; halted: %v, processes held: %v", d.state(t, "a"), h.computer.Halted(v.ID), h.look(v).Frozen)
	}
	d.resume(t, v)
	d.goesOn(t, v)
}

// TestPendingSurvivesSuspension changes a running VM and suspends it: it goes on as the machine that it was, with the image and the kernel that it had, which
// nobody may delete until then.
func TestPendingSurvivesSuspension(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	changed, err := d.Set(t.Context(), "a", model.Change{VCPUs: ptr(3), Image: ptr("other"), Kernel: ptr("other-kernel"), Env: map[string]string{"NEW": "1"}})
	if err != nil || len(changed.Pending) != 4 {
		t.Fatalf("%+v, %v", changed, err)
	}
	inUse := func() (images, kernels []string) {
		if err := d.References(func(i, k map[string][]string) error {
			images, kernels = slices.Sorted(maps.Keys(i)), slices.Sorted(maps.Keys(k))
			return nil
		}); err != nil {
			t.Error(err)
		}
		return images, kernels
	}
	check := func(when string) {
		t.Helper()
		got, _ := d.Get("a")
		if !slices.Equal(got.Pending, changed.VM.Pending) || got.Spec.VCPUs != 3 || got.DiskImage != "id-of-img" {
			t.Errorf("%s: pending %v, %+v, its disk lies over %s", when, got.Pending, got.Spec, got.DiskImage)
		}
		images, kernels := inUse()
		if !slices.Equal(images, []string{"id-of-img", "other"}) || !slices.Equal(kernels, []string{"id-of-krn", "other-kernel"}) {
			t.Errorf("%s: in use are %v, %v", when, images, kernels)
		}
	}
	check("running")
	d.suspend(t, v)
	check("suspended")
	d.resume(t, v)
	check("resumed")
	d.goesOn(t, v)
	if m := h.computer.Running()[0]; m.VCPUs != 1 {
		t.Errorf("it goes on with %d CPUs", m.VCPUs)
	}
	first, err := os.Stat(h.layout.VM(v.ID).SystemDisk())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.Restart(t.Context(), "a", nil, nil); err != nil || len(got.Pending) != 0 || got.DiskImage != "other" {
		t.Errorf("restarted: %+v, %v", got, err)
	}
	if m := h.computer.Running()[0]; m.VCPUs != 3 {
		t.Errorf("it was started with %d CPUs", m.VCPUs)
	}
	if again, err := os.Stat(h.layout.VM(v.ID).SystemDisk()); err != nil || os.SameFile(first, again) {
		t.Errorf("the other image lies under the first one's changes (%v)", err)
	}
	if images, kernels := inUse(); !slices.Equal(images, []string{"other"}) || !slices.Equal(kernels, []string{"other-kernel"}) {
		t.Errorf("in the end %v, %v are in use", images, kernels)
	}
}

// TestRenamedWhileSuspended tells the guest of its new name at the next start, as for one that runs.
func TestRenamedWhileSuspended(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	if got, err := d.Rename(t.Context(), "a", "b"); err != nil || !slices.Equal(got.Pending, []string{"name"}) {
		t.Errorf("%+v, %v", got.Pending, err)
	}
	d.resume(t, v)
	if got, err := d.Restart(t.Context(), "b", nil, nil); err != nil || len(got.Pending) != 0 || h.look(v).Name != "b" {
		t.Errorf("%v, %v, it is called %q", got.Pending, err, h.look(v).Name)
	}
}
