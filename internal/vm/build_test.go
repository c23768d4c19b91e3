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

// TestBuildIsInNobodysWay: VMs start, stop and are forked while a template's guest takes its time.
func TestBuildIsInNobodysWay(t *testing.T) {
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
	d.isFork(t, d.fork(t, v, model.Fork{})[0], v, "work of a")
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
	if err != nil || len(list) != 1 || !list[0].Building {
		t.Errorf("%+v, %v", list, err)
	} else if _, err := d.deleteTemplate(t.Context(), list[0].Key); fault.KindOf(err) != fault.WrongState || fault.HintOf(err) == "" {
		t.Errorf("deleting it: %v", err)
	}
	if pruned, err := d.pruneTemplates(t.Context(), false); err != nil || len(pruned.Removed) != 0 {
		t.Errorf("pruned %+v, %v", pruned, err)
	}
	if _, err := d.Usage(t.Context()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context()) // nor is whoever wants one, too, and changes their mind
	second := make(chan error, 1)
	go func() { _, err := d.BuildTemplate(ctx, model.Create{}, nil); second <- err }()
	cancel()
	if err := <-second; fault.KindOf(err) != fault.Canceled {
		t.Errorf("the second build: %v", err)
	}
	release()
	if err := <-errs; err != nil {
		t.Error(err)
	}
	d.goesOn(t, v)
}

// TestManyWantATemplate and one is made.
func TestManyWantATemplate(t *testing.T) {
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
			if v, err := d.Launch(t.Context(), model.Create{}, func(model.VM) {}, nil); err != nil || v.State != model.Running {
				t.Errorf("%s, %v", v.State, err)
			}
		})
	}
	wg.Wait()
	idle()
	waitFor(t, func() bool { return len(d.wants()) == 0 })
	if universal, images := d.kinds(t); universal != 1 || len(images) != 1 || h.called("build save") != 2 || len(d.List()) != 4 {
		t.Errorf("%d universal ones, %v; %d were saved", universal, images, h.called("build save"))
	}
}

// TestBuildWritesFirst: what a template's guest has in memory is written before it stands still, so that none that goes on from it has that to do.
func TestBuildWritesFirst(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.withTemplates(t, model.Create{})
	h.mu.Lock()
	defer h.mu.Unlock()
	sync, freeze := slices.Index(h.calls, "build sync"), slices.Index(h.calls, "build freeze")
	if sync < 0 || freeze < sync {
		t.Errorf("synced at %d, frozen at %d of %q", sync, freeze, h.calls)
	}
}

// TestKilledInABuild kills the daemon at each moment of making templates: the next one finds all of it and takes it away.
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
			if after := h.files(); !slices.Equal(before, after) || h.running() != 1 || d.state(t, v.ID) != model.Running {
				t.Errorf("before %v, after %v; %d machines", before, after, h.running())
			}
			for _, path := range h.stored() {
				if strings.Contains(path, "/.") {
					t.Errorf("left: %s", path)
				}
			}
			if _, err := d.BuildTemplate(t.Context(), model.Create{}, nil); err != nil {
				t.Error(err)
			}
			if got := d.started(t, model.Create{Name: "b"}); from(got) != model.FromTemplate {
				t.Errorf("it went on from %q", from(got))
			}
		})
	}
}

// TestDaemonEndsInABuild: it takes the template in the making along, and waits for no guest.
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
			if left := h.files(); len(left) != files || h.running() != 1 {
				t.Errorf("left: %v, %d machines", left, h.running())
			}
			for _, path := range h.stored() {
				if strings.Contains(path, "/.") {
					t.Errorf("left: %s", path)
				}
			}
			if hook == "build do agent" && len(h.stored()) != 0 {
				t.Errorf("stored: %v", h.stored())
			}
		})
	}
}
