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

// buildHooks are the moments of building templates: the universal one, and from it the image's.
var buildHooks = []string{
	"build do prepare/two", "build do vmm", "build do agent", "build save", "build signal", "build undo one",
	"build do assume", "build exec", "build freeze", "build froze", "build still",
}

// ofImages are the hooks that only the build of an image's template reaches.
var ofImages = []string{"build do assume", "build exec", "build freeze", "build froze"}

// TestBuildFails makes each part of a build fail. The build leaves nothing, VMs still start, and a
// later build succeeds.
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
				t.Errorf("the build made %+v and returned %v, not the error of its hook", made, err)
			}
			// The next daemon removes what the build could not remove.
			stuck := hook == "build signal" || hook == "build undo one"
			if !stuck {
				h.wantNothingLeft(t)
			}
			want := model.OriginKind("")
			if slices.Contains(ofImages, hook) {
				want = model.FromUniversal
			}
			if stuck { // the template works
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

// TestBuildThatFailsIsTriedAgain checks that the background retries a failed build after growing
// delays, however many starts ask for it.
func TestBuildThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.templates.Off = false
	d := h.daemon()
	h.failing("build do agent", errBoom)
	for i, wait := range []time.Duration{
		0, time.Minute, 4 * time.Minute, 16 * time.Minute, 64 * time.Minute, 4 * time.Hour, 4 * time.Hour,
	} {
		tries := 2 * i          // one of each kind
		if wait > time.Minute { // a minute can pass by itself on a busy host
			idle := d.busy()
			d.passTime(wait / 2)
			wantOrigin(t, d.started(t, model.Create{}), "")
			d.wantWanted(t)
			d.wantPostponed(t, 2)
			d.passTime(wait - wait/2)
			idle()
		} else {
			d.passTime(wait)
		}
		idle := d.busy()
		for range 2 {
			d.started(t, model.Create{})
		}
		if got := d.wanted(); !slices.Equal(got, []string{"u", "i"}) {
			t.Fatalf("after %v and %d builds, the templates to be built are %q", wait, tries, got)
		}
		idle()
		waitFor(t, func() bool { return d.postponed() == 2 && len(d.wanted()) == 0 })
		h.wantCalls(t, "build do agent", tries+2)
		h.wantStored(t, 0)
	}
	d.passTime(4 * time.Hour)
	h.failing("build do agent", nil)
	idle := d.busy()
	d.started(t, model.Create{})
	idle()
	waitFor(t, func() bool { _, images := d.templateKinds(t); return len(images) == 1 })
	wantOrigin(t, d.started(t, model.Create{}), model.FromTemplate)
}

// TestBuildOnRequest checks that a requested build does not wait for the delay of a failed one,
// and ends that delay.
func TestBuildOnRequest(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.templates.Off = false
	d := h.daemon()
	h.failing("build do agent", errBoom)
	idle := d.busy()
	d.started(t, model.Create{})
	idle()
	waitFor(t, func() bool { return d.postponed() == 2 })
	d.busy()
	h.failing("build do agent", nil)
	if _, err := d.BuildTemplate(t.Context(), model.Create{}, nil); err != nil {
		t.Error(err)
	}
	d.wantPostponed(t, 0)
	if _, err := d.pruneTemplates(t.Context(), false); err != nil {
		t.Error(err)
	}
	d.started(t, model.Create{})
	d.wantWanted(t, "u", "i")
}

// TestUniversalThatDoesNotWork breaks the universal template during a build. The image's template
// is then built by a boot. The universal one is built again if something is proved against it.
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
			build := func() ([]model.Template, error) { return d.BuildTemplate(t.Context(), model.Create{}, nil) }
			made, err := failingOnce(h, hook, errBoom, build, nil) // the boot succeeds
			if err != nil {
				t.Fatal(err)
			}
			h.wantCalls(t, "build restore", 1)
			h.wantNothingLeft(t)
			if len(made) != 2 {
				t.Fatalf("the build made %+v: two templates are wanted", made)
			}
			equal(t, "the first template's kind", made[0].Kind, model.TemplateUniversal)
			proof, kept := hook != "build do assume", 0
			equal(t, "whether the universal template is to be built again", made[0].Building, proof)
			equal(t, "the second template's kind", made[1].Kind, model.TemplateImage)
			claim(t, !made[1].Building, "the image's template is still being built: %+v", made[1])
			if proof {
				d.wantWanted(t, "u")
			} else {
				kept = 1
				d.wantWanted(t)
			}
			d.wantTemplates(t, kept, "img")
			wantOrigin(t, d.started(t, model.Create{Name: "a"}), model.FromTemplate)
			idle()
			waitFor(t, func() bool { universal, _ := d.templateKinds(t); return universal == 1 })
			d.wantPostponed(t, 0)
		})
	}
}

// TestCancelledBuild checks that a cancelled build leaves complete templates only.
func TestCancelledBuild(t *testing.T) {
	t.Parallel()
	for hook, left := range map[string]int{
		"build do prepare/one": 0, "build do agent": 0, "build do assume": 1, "build exec": 1,
		"build freeze": 1,
	} {
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

// TestBuildMachineDies ends the machine of a build. The build fails and leaves nothing.
func TestBuildMachineDies(t *testing.T) {
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
				t.Error("a template was made from a machine that has ended")
			}
			h.wantNothingLeft(t)
		})
	}
}

// TestBuildRefuses requests templates of VMs that cannot exist.
func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.templates.Off = false
	d := h.daemon()
	if _, err := d.BuildTemplate(t.Context(), model.Create{VCPUs: ptr(-1)}, nil); fault.KindOf(err) != fault.Invalid {
		t.Errorf("the build of an invalid VM returned %v", err)
	}
	h.failing("ensure image", errBoom)
	if _, err := d.BuildTemplate(t.Context(), model.Create{}, nil); !errors.Is(err, errBoom) {
		t.Errorf("the build without an image returned %v", err)
	}
	h.wantStored(t, 0)
	h.wantFiles(t, nil)
}

// TestBuildOnAFullDisk checks that a build on a full disk leaves nothing, and that VMs boot
// without a template.
func TestBuildOnAFullDisk(t *testing.T) {
	for _, full := range []string{"cache", "state"} {
		t.Run(full, func(t *testing.T) {
			h := newHost(t)
			h.templates.Off = false
			dir := h.layout.Cache
			if full == "state" {
				dir = h.layout.State
			}
			fill, free := h.smallFilesystem(dir, 32*model.MiB)
			d := h.daemon()
			d.busy()
			v := d.worker(t, model.Create{Name: "a"})
			before := h.files()
			fill(0)
			if made, err := d.BuildTemplate(t.Context(), model.Create{}, nil); err == nil {
				t.Errorf("the build on a full disk made %+v", made)
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
			d.wantContinues(t, v)
		})
	}
}
