package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/template"
	"banger/internal/vmm"
)

// TestDamagedTemplate damages each file of each kind of template: the VM comes up as if there had been none, and another one is made.
func TestDamagedTemplate(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"u", "i"} {
		for _, file := range []string{"meta.json", "memory", "device", "system.ext4"} {
			for _, how := range damages {
				if file == "system.ext4" && kind == "u" {
					continue // there is none
				}
				t.Run(fmt.Sprint(kind, " ", file, " ", how.name), func(t *testing.T) {
					t.Parallel()
					h := newHost(t)
					d := h.withTemplates(t, model.Create{})
					for _, path := range h.stored() {
						if strings.HasPrefix(filepath.Base(path), kind) {
							how.do(t, filepath.Join(path, file))
						} else if kind == "u" {
							damage(t, os.RemoveAll(path)) // it would be preferred
						}
					}
					want, wants := model.FromUniversal, []string{"i"}
					if kind == "u" {
						want, wants = "", []string{"u", "i"}
					}
					v := d.started(t, model.Create{Name: "a"})
					if from(v) != want || v.LastError != nil {
						t.Errorf("it went on from %q, not %q; %+v", from(v), want, v.LastError)
					}
					if got := d.wants(); !slices.Equal(got, wants) {
						t.Errorf("wanted are now %v, not %v", got, wants)
					}
					for _, path := range h.stored() {
						if strings.HasPrefix(filepath.Base(path), kind) {
							t.Errorf("it is still there: %s", path)
						}
					}
					h.closesAll(t)
				})
			}
		}
	}
}

// TestTemplateThatDoesNotWork has machines from a template fail in each way: the VM is booted instead, on fresh disks, and another template is made, but
// a third one only after a while.
func TestTemplateThatDoesNotWork(t *testing.T) {
	t.Parallel()
	unavailable := fault.New(fault.Unavailable, "it is gone")
	for name, c := range map[string]struct {
		hook string
		fail error
		do   func(*host, model.VM) // while the hook hangs
	}{
		"no restore":   {"restore", errBoom, nil},
		"no machine":   {"do vmm", errBoom, nil},
		"no agent":     {"do agent", errBoom, nil},
		"no assume":    {"do assume", unavailable, nil},
		"dies early":   {"do agent", nil, func(h *host, v model.VM) { h.end(v, vmm.ExitCrashed) }},
		"dies late":    {"do assume", nil, func(h *host, v model.VM) { h.end(v, vmm.ExitPanic) }},
		"not held":     {"do vmm", nil, func(h *host, v model.VM) { h.inGuest(v.ID, func(g *guest) { g.Frozen = false }) }},
		"writes first": {"do assume", unavailable, func(h *host, v model.VM) { h.work(v, "left over") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.withTemplates(t, model.Create{})
			for i, wants := range [][]string{{"u", "i"}, {"u"}} { // what is there already costs nothing to ask for
				v := d.create(t, model.Create{Name: fmt.Sprint("v-", i)})
				calls := h.called(c.hook)
				release := h.hanging(c.hook)
				h.failing(c.hook, c.fail)
				type result struct {
					model.VM
					err error
				}
				results := make(chan result, 1)
				var said []step.Event
				go func() {
					got, err := d.Start(t.Context(), v.ID, model.Start{}, func(e step.Event) { said = append(said, e) })
					results <- result{got, err}
				}()
				waitFor(t, func() bool { return h.called(c.hook) > calls })
				if c.do != nil {
					c.do(h, v)
				}
				h.failing(c.hook, nil)
				release()
				got := <-results
				if got.err != nil || got.State != model.Running || !got.Boot.Cold || from(got.VM) != "" || got.LastError != nil {
					t.Fatalf("start %d: %s, %+v, %v", i, got.State, got.Boot, got.err)
				}
				if g := h.look(v); g.Forks != 0 || g.Name != v.Spec.Name || h.onDisk(v) != "" {
					t.Errorf("start %d: %+v, %q on its disk", i, g, h.onDisk(v))
				}
				if len(said) == 0 || h.running() != i+1 {
					t.Errorf("start %d: said %v; %d machines", i, said, h.running())
				}
				if _, images := d.kinds(t); len(images) != 0 || !slices.Equal(d.wants(), wants) {
					t.Errorf("start %d: there are still %v; wanted are %v", i, images, d.wants())
				}
				if i == 0 { // the background would do the same
					d.forgetWants()
					if _, err := d.BuildTemplate(t.Context(), model.Create{}, nil); err != nil {
						t.Fatal(err)
					}
				}
			}
			if d.givenUp() != 1 {
				t.Errorf("%d given up", d.givenUp())
			}
			d.passes(template.FirstRetry)
			if d.started(t, model.Create{Name: "later"}); !slices.Equal(d.wants(), []string{"u", "i"}) || d.givenUp() != 0 {
				t.Errorf("wanted later are %v, %d given up", d.wants(), d.givenUp())
			}
			h.closesAll(t)
		})
	}
}

// TestTemplateVanishes between its choice and its use: the start does not mind.
func TestTemplateVanishes(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withTemplates(t, model.Create{})
	v := d.create(t, model.Create{Name: "a"})
	report := func(e step.Event) { // called between the steps
		if e.Step == "origin" && e.Phase == step.Done {
			if _, err := d.pruneTemplates(t.Context(), false); err != nil {
				t.Error(err)
			}
		}
	}
	got, err := d.Start(t.Context(), "a", model.Start{}, report)
	if err != nil || got.State != model.Running || !got.Boot.Cold || h.look(v).Name != "a" {
		t.Errorf("%s, %+v, %v", got.State, got.Boot, err)
	}
}

// TestTemplateWithAnotherImage fails the first start of a VM that has got another image: what the template's machine left on the disk is not booted.
func TestTemplateWithAnotherImage(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withTemplates(t, model.Create{Image: "other"})
	v := d.started(t, model.Create{Name: "a", Cold: true})
	d.bring(t, v, model.Stopped)
	if _, err := d.Set(t.Context(), "a", model.Change{Image: ptr("other")}); err != nil {
		t.Fatal(err)
	}
	calls := h.called("do assume")
	release := h.hanging("do assume")
	h.failing("do assume", fault.New(fault.Unavailable, "it is gone"))
	errs := make(chan error, 1)
	go func() { _, err := d.Start(t.Context(), "a", model.Start{}, nil); errs <- err }()
	waitFor(t, func() bool { return h.called("do assume") > calls })
	h.work(v, "left over")
	h.failing("do assume", nil)
	release()
	if err := <-errs; err != nil || h.onDisk(v) != "" {
		t.Errorf("%v, %q on its disk", err, h.onDisk(v))
	}
}

// TestStartsOwnFaults are not the template's: it stays, and the start fails as it would have without.
func TestStartsOwnFaults(t *testing.T) {
	t.Parallel()
	for hook, err := range map[string]error{
		"do preflight": errBoom, "do prepare/two": errBoom, "do assume": fault.New(fault.Invalid, "a bad user"), "do post-start/one": errBoom, "store running": errBoom,
	} {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.withTemplates(t, model.Create{})
			d.create(t, model.Create{Name: "a"})
			before := h.files()
			h.failing(hook, err)
			if got, startErr := d.Start(t.Context(), "a", model.Start{}, nil); !errors.Is(startErr, err) || got.State != model.Failed {
				t.Errorf("%s, %v", got.State, startErr)
			}
			h.failing(hook, nil)
			if _, images := d.kinds(t); len(images) != 1 {
				t.Error("the template is gone")
			}
			if after := h.files(); !slices.Equal(before, after) || h.running() != 0 {
				t.Errorf("before %v, after %v", before, after)
			}
			d.running(t, "a")
			if got, _ := d.Get("a"); from(got) != model.FromTemplate {
				t.Errorf("the next start: %+v", got.Boot)
			}
		})
	}
}

// TestCancelledStartFromATemplate keeps the template and nothing else.
func TestCancelledStartFromATemplate(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withTemplates(t, model.Create{})
	d.create(t, model.Create{Name: "a"})
	before := append(h.files(), h.stored()...)
	calls := h.called("do assume")
	defer h.hanging("do assume")()
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 1)
	go func() { _, err := d.Start(ctx, "a", model.Start{}, nil); errs <- err }()
	waitFor(t, func() bool { return h.called("do assume") > calls })
	cancel()
	if err := <-errs; fault.KindOf(err) != fault.Canceled {
		t.Errorf("got %v", err)
	}
	if after := append(h.files(), h.stored()...); !slices.Equal(before, after) || d.state(t, "a") != model.Stopped || h.running() != 0 || h.called("do assume") != calls+1 {
		t.Errorf("before %v, after %v; it is %s", before, after, d.state(t, "a"))
	}
}

// TestKilledInAStartFromATemplate leaves what a killed cold boot does: nothing.
func TestKilledInAStartFromATemplate(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"do prepare/one", "restore", "do vmm", "do agent", "do assume", "store running"} {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.withTemplates(t, model.Create{})
			v := d.create(t, model.Create{Name: "a"})
			before := append(h.files(), h.stored()...)
			dead := d
			d = d.killedIn(hook, func(ctx context.Context) { dead.Start(ctx, "a", model.Start{}, nil) })
			d.busy()
			if after := append(h.files(), h.stored()...); !slices.Equal(before, after) || d.state(t, "a") != model.Failed || h.running() != 0 {
				t.Errorf("before %v, after %v; it is %s", before, after, d.state(t, "a"))
			}
			d.running(t, "a")
			if got, _ := d.Get("a"); from(got) != model.FromTemplate || h.look(v).Name != "a" {
				t.Errorf("the next start: %+v", got.Boot)
			}
		})
	}
}

// TestKillOfAStartFromATemplate ends the start, and no boot follows it.
func TestKillOfAStartFromATemplate(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withTemplates(t, model.Create{})
	d.create(t, model.Create{Name: "a"})
	calls := h.called("do assume")
	release := h.hanging("do assume")
	defer release()
	errs := make(chan error, 1)
	go func() { _, err := d.Start(t.Context(), "a", model.Start{}, nil); errs <- err }()
	waitFor(t, func() bool { return h.called("do assume") > calls })
	if _, err := d.Kill(t.Context(), "a", syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	release()
	if err := <-errs; err == nil || d.state(t, "a") != model.Failed || h.running() != 0 {
		t.Errorf("%v; it is %s", err, d.state(t, "a"))
	}
}
