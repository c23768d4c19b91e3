package vm

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
)

// buildHooks are the moments of making templates: the universal one, and from that the image's.
var buildHooks = []string{
	"build do prepare/two", "build do vmm", "build do agent", "build save", "build signal", "build undo one",
	"build do assume", "build exec", "build freeze", "build froze", "build still",
}

// ofImages are those that only an image's template comes by.
var ofImages = []string{"build do assume", "build exec", "build freeze", "build froze"}

// TestBuildFails fails each part of making templates: nothing is left of it, VMs come up all the same, and when the cause is gone it can be done.
func TestBuildFails(t *testing.T) {
	t.Parallel()
	for _, hook := range buildHooks {
		t.Run(strings.TrimPrefix(hook, "build "), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.templates.Off = false
			d := h.daemon()
			d.busy()
			h.failing(hook, errBoom)
			made, err := d.BuildTemplate(t.Context(), model.Create{}, nil)
			if !errors.Is(err, errBoom) {
				t.Errorf("made %+v, %v", made, err)
			}
			stuck := hook == "build signal" || hook == "build undo one" // what could not be taken away is found at the next start-up
			if !stuck {
				h.wantNothingLeft(t)
			}
			want := model.OriginKind("")
			if slices.Contains(ofImages, hook) {
				want = model.FromUniversal
			}
			if stuck { // the template itself is well
				want = model.FromUniversal
			}
			wantOrigin(t, d.started(t, model.Create{Name: "a"}), want)
			h.failing(hook, nil)
			h.wantNoneUnfinished(t)
			if _, err := d.BuildTemplate(t.Context(), model.Create{}, nil); err != nil {
				t.Error(err)
			}
			v := d.started(t, model.Create{Name: "b"})
			wantOrigin(t, v, model.FromTemplate)
			d.die()
			d = h.daemon()
			a, _ := d.Get("a")
			equal(t, "the number of files, which belong to two VMs,", len(h.files()), len(h.filesOf(a, v)))
			h.wantMachines(t, 2)
		})
	}
}

// TestBuildThatFailsIsTriedAgain by the background, however many starts ask for it, after ever longer whiles.
func TestBuildThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.templates.Off = false
	d := h.daemon()
	h.failing("build do agent", errBoom)
	for i, wait := range []time.Duration{0, time.Minute, 4 * time.Minute, 16 * time.Minute, 64 * time.Minute, 4 * time.Hour, 4 * time.Hour} {
		tries := 2 * i          // one of each kind
		if wait > time.Minute { // which may pass while a host is very busy
			idle := d.busy()
			d.passes(wait / 2)
			wantOrigin(t, d.started(t, model.Create{}), "")
			d.wantWanted(t)
			d.wantPostponed(t, 2)
			d.passes(wait - wait/2)
			idle()
		} else {
			d.passes(wait)
		}
		idle := d.busy()
		for range 2 {
			d.started(t, model.Create{})
		}
		if got := d.wants(); !slices.Equal(got, []string{"u", "i"}) {
			t.Fatalf("after %v and %d tries, wanted are %v", wait, tries, got)
		}
		idle()
		waitFor(t, func() bool { return d.givenUp() == 2 && len(d.wants()) == 0 })
		h.wantCalls(t, "build do agent", tries+2)
		h.wantStored(t, 0)
	}
	d.passes(4 * time.Hour)
	h.failing("build do agent", nil)
	idle := d.busy()
	d.started(t, model.Create{})
	idle()
	waitFor(t, func() bool { _, images := d.kinds(t); return len(images) == 1 })
	wantOrigin(t, d.started(t, model.Create{}), model.FromTemplate)
}

// TestBuildOnRequest does not mind that it failed a moment ago, and later starts do not either.
func TestBuildOnRequest(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.templates.Off = false
	d := h.daemon()
	h.failing("build do agent", errBoom)
	idle := d.busy()
	d.started(t, model.Create{})
	idle()
	waitFor(t, func() bool { return d.givenUp() == 2 })
	d.busy()
	h.failing("build do agent", nil)
	if _, err := d.BuildTemplate(t.Context(), model.Create{}, nil); err != nil {
		t.Error(err)
	}
	d.wantPostponed(t, 0)
	if _, err := d.pruneTemplates(t.Context(), false); err != nil {
		t.Error(err)
	}
	if d.started(t, model.Create{}); !slices.Equal(d.wants(), []string{"u", "i"}) {
		t.Errorf("wanted are %v", d.wants())
	}
}

// TestUniversalThatDoesNotWork has an image's template be made all the same, by a boot, and the universal one anew.
func TestUniversalThatDoesNotWork(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"build restore", "build do agent", "build do assume"} {
		t.Run(strings.TrimPrefix(hook, "build "), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.templates.Off = false
			d := h.daemon()
			idle := d.busy()
			if err := d.pool().MakeUniversal(t.Context(), d.specFor(t, model.Create{})); err != nil {
				t.Fatal(err)
			}
			calls := h.called(hook)
			release := h.hanging(hook)
			h.failing(hook, errBoom)
			errs := make(chan error, 1)
			var made []model.Template
			go func() {
				var err error
				made, err = d.BuildTemplate(t.Context(), model.Create{}, nil)
				errs <- err
			}()
			waitFor(t, func() bool { return h.called(hook) > calls })
			h.failing(hook, nil) // a boot does better
			release()
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
			h.wantCalls(t, "build restore", 1)
			h.wantNothingLeft(t)
			if len(made) != 2 {
				t.Fatalf("the build made %+v: two templates are wanted", made)
			}
			equal(t, "the first template's kind", made[0].Kind, model.TemplateUniversal)
			claim(t, made[0].Building, "the universal template, which failed, is not to be built again: %+v", made[0])
			equal(t, "the second template's kind", made[1].Kind, model.TemplateImage)
			claim(t, !made[1].Building, "the image's template is still being built: %+v", made[1])
			d.wantTemplates(t, 0, "img")
			d.wantWanted(t, "u")
			wantOrigin(t, d.started(t, model.Create{Name: "a"}), model.FromTemplate)
			idle()
			waitFor(t, func() bool { universal, _ := d.kinds(t); return universal == 1 })
			d.wantPostponed(t, 0)
		})
	}
}

// TestCancelledBuild leaves nothing but what was complete.
func TestCancelledBuild(t *testing.T) {
	t.Parallel()
	for hook, left := range map[string]int{"build do prepare/one": 0, "build do agent": 0, "build do assume": 1, "build exec": 1, "build freeze": 1} {
		t.Run(strings.TrimPrefix(hook, "build "), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.templates.Off = false
			d := h.daemon()
			release := h.hanging(hook)
			defer release()
			ctx, cancel := context.WithCancel(t.Context())
			errs := make(chan error, 1)
			go func() { _, err := d.BuildTemplate(ctx, model.Create{}, nil); errs <- err }()
			waitFor(t, func() bool { return h.called(hook) > 0 })
			cancel()
			wantKind(t, "the cancelled build", <-errs, fault.Canceled)
			h.wantNothingLeft(t)
			h.wantStored(t, left)
			d.wantPostponed(t, 0)
			release()
			if _, err := d.BuildTemplate(t.Context(), model.Create{}, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTemplatesMachineDies while it is brought up.
func TestTemplatesMachineDies(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"build do agent", "build exec", "build still"} {
		t.Run(strings.TrimPrefix(hook, "build "), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.templates.Off = false
			d := h.daemon()
			release := h.hanging(hook)
			errs := make(chan error, 1)
			go func() { _, err := d.BuildTemplate(t.Context(), model.Create{}, nil); errs <- err }()
			waitFor(t, func() bool { return h.called(hook) > 0 })
			for _, m := range h.computer.Running() {
				h.computer.End(m.ID, vmm.Exit{Reason: vmm.ExitPanic})
			}
			release()
			if err := <-errs; err == nil {
				t.Error("it was made of a dead machine")
			}
			h.wantNothingLeft(t)
		})
	}
}

// TestBuildRefuses what no VM could be.
func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.templates.Off = false
	d := h.daemon()
	if _, err := d.BuildTemplate(t.Context(), model.Create{VCPUs: ptr(-1)}, nil); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a bad machine: %v", err)
	}
	h.failing("ensure image", errBoom)
	if _, err := d.BuildTemplate(t.Context(), model.Create{}, nil); !errors.Is(err, errBoom) {
		t.Errorf("without an image: %v", err)
	}
	h.wantStored(t, 0)
	h.wantFiles(t, nil)
}

// TestBuildOnAFullDisk: there is no template, and VMs are booted.
func TestBuildOnAFullDisk(t *testing.T) {
	for _, full := range []string{"cache", "state"} {
		t.Run(full, func(t *testing.T) {
			h := newHost(t)
			h.templates.Off = false
			dir := h.layout.Cache
			if full == "state" {
				dir = h.layout.State
			}
			fill, free := h.small(dir, 32*model.MiB)
			d := h.daemon()
			d.busy()
			v := d.worker(t, model.Create{Name: "a"})
			before := h.files()
			fill(0)
			if made, err := d.BuildTemplate(t.Context(), model.Create{}, nil); err == nil {
				t.Errorf("made %+v", made)
			} else {
				wantDiskFull(t, err)
			}
			h.wantFiles(t, before)
			h.wantMachines(t, 1)
			h.wantStored(t, 0)
			if full == "cache" {
				d.started(t, model.Create{Name: "b"})
			}
			free()
			if _, err := d.BuildTemplate(t.Context(), model.Create{}, nil); err != nil {
				t.Error(err)
			}
			wantOrigin(t, d.started(t, model.Create{Name: "c"}), model.FromTemplate)
			d.goesOn(t, v)
		})
	}
}
