package vm

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestBuildBlocksNobody starts, stops and forks VMs while the guest of a build hangs.
func TestBuildBlocksNobody(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.templates.Off = false
	d := h.daemon()
	d.busy()
	release := h.hanging("build do agent")
	defer release()
	errs := make(chan error, 1)
	go func() { _, err := d.BuildTemplate(t.Context(), model.Create{}, nil); errs <- err }()
	waitFor(t, func() bool { return h.called("build do agent") > 0 })
	v := d.worker(t, model.Create{Name: "a"})
	d.wantFork(t, d.fork(t, v, model.Fork{})[0], v, "work of a")
	d.suspend(t, v)
	d.resume(t, v)
	if _, err := d.Launch(t.Context(), model.Create{Name: "b"}, func(model.VM) {}, nil); err != nil {
		t.Error(err)
	}
	if _, err := d.Stop(t.Context(), "b", nil, nil); err != nil {
		t.Error(err)
	}
	d.snap(t, v, "s")
	list, err := d.listTemplates(t.Context())
	if err != nil {
		t.Error(err)
	}
	if len(list) != 1 {
		t.Fatalf("one template is being built, but listed are %+v", list)
	}
	claim(t, list[0].Building, "the template is not listed as being built: %+v", list[0])
	_, err = d.deleteTemplate(t.Context(), list[0].Key)
	wantKind(t, "deleting a template that is being built", err, fault.WrongState)
	wantHint(t, "deleting a template that is being built", err, "")
	wantPruned(t, 0)(d.pruneTemplates(t.Context(), false))
	if _, err := d.Usage(t.Context()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context()) // for a second build
	second := make(chan error, 1)
	go func() { _, err := d.BuildTemplate(ctx, model.Create{}, nil); second <- err }()
	cancel()
	if err := <-second; fault.KindOf(err) != fault.Canceled {
		t.Errorf("the cancelled build returned %v", err)
	}
	release()
	if err := <-errs; err != nil {
		t.Error(err)
	}
	d.wantContinues(t, v)
}

// TestConcurrentBuildsMakeOneTemplate requests a template several times at once, while VMs start.
func TestConcurrentBuildsMakeOneTemplate(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.templates.Off = false
	d := h.daemon()
	idle := d.busy()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := d.BuildTemplate(t.Context(), model.Create{}, nil); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			wantEnds(t, "the launch", model.Running)(d.Launch(t.Context(), model.Create{}, func(model.VM) {}, nil))
		})
	}
	wg.Wait()
	idle()
	waitFor(t, func() bool { return len(d.wanted()) == 0 })
	d.wantTemplates(t, 1, "img")
	h.wantCalls(t, "build save", 2)
	d.wantVMs(t, 4)
}

// TestBuildSyncsBeforeItFreezes checks that a build writes the guest's cached data to disk before
// it halts the guest. Otherwise every VM from the template would repeat this work.
func TestBuildSyncsBeforeItFreezes(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.withTemplates(t, model.Create{})
	h.mu.Lock()
	defer h.mu.Unlock()
	sync, freeze := slices.Index(h.calls, "build sync"), slices.Index(h.calls, "build freeze")
	claim(t, sync >= 0, "the build did not sync the guest's disks: %q", h.calls)
	claim(t, sync < freeze,
		"the build synced the disks at %d, after it froze the guest at %d of %q", sync, freeze, h.calls)
}

// TestKilledInABuild kills the daemon at each moment of a build. The next daemon removes what is
// left.
func TestKilledInABuild(t *testing.T) {
	t.Parallel()
	for _, hook := range append(buildHooks, "build restore") {
		t.Run(strings.TrimPrefix(hook, "build "), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.templates.Off = false
			d := h.daemon()
			v := d.started(t, model.Create{Name: "a"})
			d.busy()
			before := h.files()
			dead := d
			d = d.killedIn(hook, func(ctx context.Context) { dead.BuildTemplate(ctx, model.Create{}, nil) })
			d.busy()
			h.wantFiles(t, before)
			h.wantMachines(t, 1)
			d.wantState(t, v.ID, model.Running)
			h.wantNoneUnfinished(t)
			if _, err := d.BuildTemplate(t.Context(), model.Create{}, nil); err != nil {
				t.Error(err)
			}
			wantOrigin(t, d.started(t, model.Create{Name: "b"}), model.FromTemplate)
		})
	}
}

// TestDaemonEndsInABuild checks that a daemon that ends during a build removes it, without waiting
// for its guest.
func TestDaemonEndsInABuild(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"build do agent", "build exec"} {
		t.Run(strings.TrimPrefix(hook, "build "), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.templates.Off = false
			d := h.daemon()
			v := d.started(t, model.Create{Name: "a"})
			files := len(h.filesOf(v))
			release := h.hanging(hook)
			defer release()
			waitFor(t, func() bool { return h.called(hook) > 0 })
			d.die()
			equal(t, "the number of files, which belong to the VM,", len(h.files()), files)
			h.wantMachines(t, 1)
			h.wantNoneUnfinished(t)
			if hook == "build do agent" && len(h.stored()) != 0 {
				t.Errorf("a template is stored, although its guest did not answer: %v", h.stored())
			}
		})
	}
}
