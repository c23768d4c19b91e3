package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/template"
	"banger/internal/vmm"
)

// TestDamagedTemplate damages each file of each kind of template. The VM starts as if there were
// none, and another one is built.
func TestDamagedTemplate(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"u", "i"} {
		for _, file := range []string{"meta.json", "memory", "device", "system.ext4"} {
			for _, how := range damages {
				if file == "system.ext4" && kind == "u" {
					continue // it has no disk
				}
				t.Run(fmt.Sprint(kind, " ", file, " ", how.name), func(t *testing.T) {
					t.Parallel()
					h := newHost(t)
					d := h.withTemplates(t, model.Create{})
					for _, path := range h.stored() {
						if strings.HasPrefix(filepath.Base(path), kind) {
							how.do(t, filepath.Join(path, file))
						} else if kind == "u" {
							damage(t, os.RemoveAll(path)) // it would be chosen first
						}
					}
					want, wants := model.FromUniversal, []string{"i"}
					if kind == "u" {
						want, wants = "", []string{"u", "i"}
					}
					v := d.started(t, model.Create{Name: "a"})
					wantOrigin(t, v, want)
					wantNoLastError(t, v)
					d.wantWanted(t, wants...)
					for _, path := range h.stored() {
						if strings.HasPrefix(filepath.Base(path), kind) {
							t.Errorf("the damaged template is still stored: %s", path)
						}
					}
					h.waitClosed(t)
				})
			}
		}
	}
}

func nothing(*host, model.VM) {}

// starting starts a VM.
func (d *daemon) starting(v model.VM) func() (model.VM, error) {
	return func() (model.VM, error) { return d.Start(d.t.Context(), v.ID, model.Start{}, nil) }
}

// TestTemplateThatDoesNotWork makes machines from a template fail in ways that prove something
// against it. The VM boots on fresh disks, and another template is built. A third one is built only
// after a delay.
func TestTemplateThatDoesNotWork(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		hook string
		fail error
		do   func(*host, model.VM) // while the hook hangs
	}{
		"no restore": {"restore", errBoom, nothing},
		"no machine": {"do vmm", errBoom, nothing},
		"no agent":   {"do agent", errBoom, nothing},
		"not frozen": {"do vmm", nil, func(h *host, v model.VM) { h.inGuest(v.ID, func(g *guest) { g.Frozen = false }) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.withTemplates(t, model.Create{})
			// A request for a template that exists has no effect.
			for i, wants := range [][]string{{"u", "i"}, {"u"}} {
				v := d.create(t, model.Create{Name: fmt.Sprint("v-", i)})
				var reported []step.Event
				got, err := failingOnce(h, c.hook, c.fail, func() (model.VM, error) {
					return d.Start(t.Context(), v.ID, model.Start{}, func(e step.Event) { reported = append(reported, e) })
				}, func() { c.do(h, v) })
				if err != nil {
					t.Fatalf("start %d: %v", i, err)
				}
				equal(t, "the VM after the start", got.State, model.Running)
				wantOrigin(t, got, "")
				wantNoLastError(t, got)
				h.wantGuest(t, v, v.Spec.Name, 0)
				h.wantOnDisk(t, v, "")
				claim(t, len(reported) > 0, "the start reported no step")
				h.wantMachines(t, i+1)
				_, images := d.templateKinds(t)
				equalLists(t, "the images with a template, after a template has failed,", images, nil)
				d.wantWanted(t, wants...)
				if i == 0 { // as the background would
					d.forgetWants()
					if _, err := d.BuildTemplate(t.Context(), model.Create{}, nil); err != nil {
						t.Fatal(err)
					}
				}
			}
			d.wantPostponed(t, 1)
			d.passTime(template.FirstRetry)
			d.started(t, model.Create{Name: "later"})
			d.wantWanted(t, "u", "i")
			d.wantPostponed(t, 0)
			h.waitClosed(t)
		})
	}
}

// TestTemplateInDoubt makes starts from a template fail without proof against it: a deadline
// passes, the machine ends, or the image's identity step fails. The VM boots on fresh disks. Only
// doubt that repeats without a success in between removes the template.
func TestTemplateInDoubt(t *testing.T) {
	t.Parallel()
	unavailable := fault.New(fault.Unavailable, "it is gone")
	late := fault.New(fault.Unavailable, "no result within 1m: %w", context.DeadlineExceeded)
	for name, c := range map[string]struct {
		hook string
		fail error
		do   func(*host, model.VM) // while the hook hangs
	}{
		"late restore":  {"restore", late, nothing},
		"no room":       {"restore", fmt.Errorf("writing: %w", syscall.ENOSPC), nothing},
		"late greeting": {"do vmm", late, nothing},
		"late agent":    {"do agent", late, nothing},
		"no assume":     {"do assume", unavailable, nothing},
		"dies early":    {"do agent", nil, func(h *host, v model.VM) { h.end(v, vmm.ExitCrashed) }},
		"dies late":     {"do assume", nil, func(h *host, v model.VM) { h.end(v, vmm.ExitPanic) }},
		"writes first":  {"do assume", unavailable, func(h *host, v model.VM) { h.work(v, "left over") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.withTemplates(t, model.Create{})
			n := 0
			fails := func() {
				t.Helper()
				n++
				v := d.create(t, model.Create{Name: fmt.Sprint("v-", n)})
				got, err := failingOnce(h, c.hook, c.fail, d.starting(v), func() { c.do(h, v) })
				if err != nil {
					t.Fatalf("start %d: %v", n, err)
				}
				wantOrigin(t, got, "")
				h.wantOnDisk(t, v, "")
			}
			fails()
			fails()
			d.wantTemplates(t, 1, "img")
			wantOrigin(t, d.started(t, model.Create{Name: "good"}), model.FromTemplate)
			fails()
			fails()
			d.wantTemplates(t, 1, "img")
			fails()
			d.wantTemplates(t, 1)
			h.waitClosed(t)
		})
	}
}

// TestDamageIsProof damages a disk of a template in a way that a start does not notice before the
// guest uses it. One failure is enough to remove the template.
func TestDamageIsProof(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withTemplates(t, model.Create{})
	for _, path := range h.stored() {
		if strings.HasPrefix(filepath.Base(path), "i") {
			disk := filepath.Join(path, "system.ext4")
			info, err := os.Stat(disk)
			damage(t, err)
			damage(t, errors.Join(os.Truncate(disk, 0), os.Truncate(disk, info.Size())))
		}
	}
	v := d.create(t, model.Create{Name: "a"})
	if _, err := failingOnce(h, "do assume", fault.New(fault.Unavailable, "it cannot be mounted"), d.starting(v), nil); err != nil {
		t.Fatal(err)
	}
	d.wantTemplates(t, 1)
	h.waitClosed(t)
}

// TestHostileImageKeepsTheUniversalTemplate makes the identity step of one image fail again and
// again in machines from the universal template. The template stays for others. If the step fails
// with several images, the template is at fault.
func TestHostileImageKeepsTheUniversalTemplate(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withTemplates(t, model.Create{})
	n := 0
	fails := func(image string) {
		t.Helper()
		n++
		v := d.create(t, model.Create{Name: fmt.Sprint("v-", n), Image: image})
		if _, err := failingOnce(h, "do assume", fault.New(fault.Unavailable, "it is gone"), d.starting(v), nil); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		fails("hostile")
	}
	d.wantTemplates(t, 1, "img")
	wantOrigin(t, d.started(t, model.Create{Name: "b", Image: "friendly"}), model.FromUniversal)
	for _, image := range []string{"hostile", "second", "third"} {
		d.wantTemplates(t, 1, "img")
		fails(image)
	}
	d.wantTemplates(t, 0, "img")
}

// TestTemplateVanishes removes a template between its choice and its use. The VM boots instead.
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
	wantEnds(t, "the start", model.Running)(got, err)
	wantOrigin(t, got, "")
	equal(t, "the guest's host name", h.memoryOf(v).Name, "a")
}

// TestTemplateWithAnotherImage makes the first start with another image fail. The VM does not boot
// from what the template's machine left on the disk.
func TestTemplateWithAnotherImage(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withTemplates(t, model.Create{Image: "other"})
	v := d.started(t, model.Create{Name: "a", Cold: true})
	d.bringTo(t, v, model.Stopped)
	if _, err := d.Set(t.Context(), "a", model.Change{Image: ptr("other")}); err != nil {
		t.Fatal(err)
	}
	gone := fault.New(fault.Unavailable, "it is gone")
	if _, err := failingOnce(h, "do assume", gone, d.starting(v), func() { h.work(v, "left over") }); err != nil {
		t.Errorf("the start: %v", err)
	}
	h.wantOnDisk(t, v, "")
}

// TestFailedStartKeepsTheTemplate makes a start fail for reasons that are not the template's. The
// start fails as it would without a template, and the template stays.
func TestFailedStartKeepsTheTemplate(t *testing.T) {
	t.Parallel()
	for hook, err := range map[string]error{
		"do preflight": errBoom, "do prepare/two": errBoom,
		"do assume": fault.New(fault.Invalid, "a bad user"), "do post-start/one": errBoom,
		"store running": errBoom,
	} {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.withTemplates(t, model.Create{})
			d.create(t, model.Create{Name: "a"})
			before := h.files()
			h.failing(hook, err)
			wantFails(t, "the start", err, model.Failed)(d.Start(t.Context(), "a", model.Start{}, nil))
			h.failing(hook, nil)
			if _, images := d.templateKinds(t); len(images) != 1 {
				t.Error("the template is gone")
			}
			h.wantFiles(t, before)
			h.wantMachines(t, 0)
			d.start(t, "a")
			if got, _ := d.Get("a"); originOf(got) != model.FromTemplate {
				t.Errorf("the next start: %+v", got.Boot)
			}
		})
	}
}

// TestCancelledStartFromATemplate checks that a cancelled start keeps the template and nothing
// else.
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
	wantKind(t, "the cancelled start", <-errs, fault.Canceled)
	h.wantAllFiles(t, before)
	d.wantState(t, "a", model.Stopped)
	h.wantMachines(t, 0)
	h.wantCalls(t, "do assume", calls+1)
}

// TestKilledInAStartFromATemplate checks that a start from a template in a killed daemon leaves
// nothing.
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
			h.wantAllFiles(t, before)
			d.wantState(t, "a", model.Failed)
			h.wantMachines(t, 0)
			d.start(t, "a")
			got, _ := d.Get("a")
			wantOrigin(t, got, model.FromTemplate)
			equal(t, "the guest's host name", h.memoryOf(v).Name, "a")
		})
	}
}

// TestKillOfAStartFromATemplate checks that a kill ends the start, and that no boot follows it.
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
	if err := <-errs; err == nil {
		t.Error("the start succeeded although its VM was killed")
	}
	d.wantState(t, "a", model.Stopped)
	h.wantMachines(t, 0)
}
