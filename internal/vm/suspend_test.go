package vm

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
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
	var reported []step.Event
	report := func(e step.Event) { reported = append(reported, e) }
	for range 2 {
		got, err := d.Pause(t.Context(), "a", report)
		if err != nil {
			t.Fatal(err)
		}
		claim(t, got.Runtime != nil, "the record of a paused VM does not name its machine")
		d.wantPaused(t, v)
	}
	wantSkipped(t, reported) // the second pause
	_, err := d.Agent(t.Context(), "a")
	wantKind(t, "the agent of a paused VM", err, fault.WrongState)
	wantHint(t, "the agent of a paused VM", err, "resume")
	reported = nil
	for range 2 {
		if got, err := d.Resume(t.Context(), "a", report); err != nil || got.State != model.Running {
			t.Fatalf("after the resume the VM is %s: %v", got.State, err)
		}
	}
	wantSkipped(t, reported) // the second resume
	d.wantContinues(t, v)
	d.pause(t, v)
	got, err := d.Start(t.Context(), "a", model.Start{}, nil)
	wantEnds(t, "starting a paused VM", model.Running)(got, err)
	claim(t, got.Started.Equal(*v.Started), "the paused VM is recorded as started anew at %v", got.Started)
	d.wantContinues(t, v)
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
			h.wantMachines(t, 0)
			wantNoRuntime(t, got)
			wantNoLastError(t, got)
			claim(t, got.Network == nil, "the record of a suspended VM still has the network %+v", got.Network)
			claim(t, got.Stopped != nil, "the record of a suspended VM does not say when it stopped")
			for _, path := range []string{h.layout.VM(v.ID).Run, h.held(v, "one"), h.held(v, "two")} {
				if _, err := os.Stat(path); err == nil {
					t.Errorf("the suspended VM still has %s", path)
				}
			}
			var reported []step.Event
			if _, err := d.Suspend(t.Context(), "a", func(e step.Event) { reported = append(reported, e) }); err != nil {
				t.Errorf("suspending it again: %v", err)
			}
			wantSkipped(t, reported)
			d.die() // a reboot makes no difference
			d = h.daemon()
			got, err := d.Resume(t.Context(), "a", nil)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "the VM after the resume", got.State, model.Running)
			claim(t, got.Stopped == nil, "the resumed VM is recorded as stopped at %v", got.Stopped)
			claim(t, got.Started.Equal(*v.Started), "the resumed VM is recorded as started anew at %v", got.Started)
			wantOrigin(t, got, model.FromSuspended)
			h.wantGuest(t, v, "a", 0)
			d.wantContinues(t, v)
			h.wantFiles(t, before)
		})
	}
}

// TestSuspendTwice checks that files left of one suspension do not affect the next one.
func TestSuspendTwice(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	old := filepath.Join(t.TempDir(), "old")
	h.command("cp", "-a", h.layout.VM(v.ID).Suspended(), old)
	d.resume(t, v)
	h.command("cp", "-a", old, h.layout.VM(v.ID).Suspended()) // as if the daemon had died first
	h.inGuest(v.ID, func(g *guest) { g.Data = "more" })
	d.suspend(t, v)
	d.resume(t, v)
	if got := h.memoryOf(v).Data; got != "more" {
		t.Errorf("the VM resumed with %q, which is not its last state", got)
	}
	d.wantNothingSaved(t)
}

// TestPausedSurvivesTheDaemon checks that another daemon finds a paused VM paused.
func TestPausedSurvivesTheDaemon(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.pause(t, v)
	d.die()
	d = h.daemon()
	d.wantPaused(t, v)
	d.resume(t, v)
	d.wantContinues(t, v)
}

// TestPendingSurvivesSuspension changes a running VM and suspends it. It resumes with its old
// image and kernel, which may not be deleted until then.
func TestPendingSurvivesSuspension(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	changed, err := d.Set(t.Context(), "a", model.Change{
		VCPUs: ptr(3), Image: ptr("other"), Kernel: ptr("other-kernel"), Env: map[string]string{"NEW": "1"},
	})
	if err != nil || len(changed.Pending) != 4 {
		t.Fatalf("four changes are to be pending, not %v, %v", changed.Pending, err)
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
		equalLists(t, when+", the pending changes", got.Pending, changed.VM.Pending)
		equal(t, when+", the changed number of vCPUs", got.Spec.VCPUs, 3)
		equal(t, when+", the image under the disk", got.DiskImage, "id-of-img")
		images, kernels := inUse()
		equalLists(t, when+", the images in use", images, []string{"id-of-img", "other"})
		equalLists(t, when+", the kernels in use", kernels, []string{"id-of-krn", "other-kernel"})
	}
	check("running")
	d.suspend(t, v)
	check("suspended")
	d.resume(t, v)
	check("resumed")
	d.wantContinues(t, v)
	if m := h.computer.Running()[0]; m.VCPUs != 1 {
		t.Errorf("the resumed machine has %d vCPUs, not 1", m.VCPUs)
	}
	first, err := os.Stat(h.layout.VM(v.ID).SystemDisk())
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.Restart(t.Context(), "a", nil, nil)
	if err != nil {
		t.Errorf("the restart: %v", err)
	}
	equalLists(t, "the changes pending after a restart", got.Pending, nil)
	equal(t, "the image under the disk after a restart", got.DiskImage, "other")
	if m := h.computer.Running()[0]; m.VCPUs != 3 {
		t.Errorf("the restarted machine has %d vCPUs, not 3", m.VCPUs)
	}
	if again, err := os.Stat(h.layout.VM(v.ID).SystemDisk()); err != nil {
		t.Error(err)
	} else {
		claim(t, !os.SameFile(first, again), "the other image lies under the first image's changes")
	}
	images, kernels := inUse()
	equalLists(t, "the images in use after a restart", images, []string{"other"})
	equalLists(t, "the kernels in use after a restart", kernels, []string{"other-kernel"})
}

// TestRenamedWhileSuspended checks that the guest gets a new name at the next start, as the guest
// of a running VM does.
func TestRenamedWhileSuspended(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	got, err := d.Rename(t.Context(), "a", "b")
	if err != nil {
		t.Errorf("the rename: %v", err)
	}
	equalLists(t, "the changes pending after the rename", got.Pending, []string{"name"})
	d.resume(t, v)
	got, err = d.Restart(t.Context(), "b", nil, nil)
	if err != nil {
		t.Errorf("the restart: %v", err)
	}
	equalLists(t, "the changes pending after the restart", got.Pending, nil)
	equal(t, "the guest's host name after the restart", h.memoryOf(v).Name, "b")
}
