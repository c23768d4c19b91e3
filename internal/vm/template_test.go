package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/template"
	"banger/internal/vmm"
)

// busy keeps templates from being made in the background until the returned function is called: a user's operation is under way.
func (d *daemon) busy() (idle func()) { return d.ops.begin() }

// withTemplates starts a daemon that has the templates of a VM, and makes no others by itself.
func (h *host) withTemplates(t *testing.T, of model.Create) *daemon {
	t.Helper()
	h.templates.Off = false
	d := h.daemon()
	d.busy()
	if made, err := d.BuildTemplate(t.Context(), of, nil); err != nil || len(made) != 2 {
		t.Fatalf("made %+v, %v", made, err)
	}
	return d
}

// started creates and starts a VM.
func (d *daemon) started(t *testing.T, req model.Create) model.VM {
	t.Helper()
	v := d.create(t, req)
	d.running(t, v.ID)
	v, _ = d.Get(v.ID)
	return v
}

// from is the kind of what a VM went on from; "" for a boot.
func from(v model.VM) model.OriginKind {
	if v.Boot == nil || v.Boot.Origin == nil {
		return ""
	}
	return v.Boot.Origin.Kind
}

// kinds counts the templates that there are.
func (d *daemon) kinds(t *testing.T) (universal int, images []string) {
	t.Helper()
	list, err := d.listTemplates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tpl := range list {
		switch {
		case tpl.Building:
		case tpl.Kind == model.TemplateUniversal:
			universal++
		default:
			images = append(images, tpl.Image)
		}
	}
	slices.Sort(images)
	return universal, images
}

// wants lists the templates that are to be made, by their kinds' first letters. The first of them may wait for its turn already.
func (d *daemon) wants() []string { return d.pool().Wanted() }

// givenUp counts the templates that no start will have made for a while.
func (d *daemon) givenUp() int { return d.pool().SetBack() }

// passes makes as much time pass for what could not be made.
func (d *daemon) passes(some time.Duration) { d.pool().Pass(some) }

// open lists the files of the host that this process has open, but for the database.
func (h *host) open() (open []string) {
	h.t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, fd := range fds {
		name, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err == nil && (strings.HasPrefix(name, h.layout.State) || strings.HasPrefix(name, h.layout.Cache)) && !strings.HasPrefix(name, h.layout.Database()) {
			open = append(open, name)
		}
	}
	return open
}

// closesAll waits until no file of the host is open any more: disks are synced in the background after a start, and templates looked at.
func (h *host) closesAll(t *testing.T) {
	t.Helper()
	waitFor(t, func() bool { return len(h.open()) == 0 })
}

// TestTemplatesComeByThemselves has nobody know of them: the first start boots and has templates made when there is nothing else to do, the second goes on
// from its image's, and the first of another image from the universal one.
func TestTemplatesComeByThemselves(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.templates.Off = false
	d := h.daemon()
	idle := d.busy()
	first := d.started(t, model.Create{Name: "first", Env: map[string]string{"SECRET": "1"}})
	if !first.Boot.Cold || from(first) != "" {
		t.Errorf("the first start: %+v", first.Boot)
	}
	if got := d.wants(); !slices.Equal(got, []string{"u", "i"}) || len(h.stored()) != 0 || h.called("build do vmm") != 0 {
		t.Errorf("while there is something else to do, wanted are %v, and stored %v", got, h.stored())
	}
	idle()
	waitFor(t, func() bool { _, images := d.kinds(t); return len(images) == 1 })
	if universal, images := d.kinds(t); universal != 1 || !slices.Equal(images, []string{"img"}) || h.called("build restore") != 1 {
		t.Errorf("%d universal ones, %v; %d were made from another", universal, images, h.called("build restore"))
	}
	if g := h.guest; g.Hostname != "template" || len(g.Files) != 0 || slices.Contains(g.Env, "SECRET=1") || g.User != "" {
		t.Errorf("the template was told %+v", g)
	}
	waitFor(t, func() bool { return len(h.files()) == len(h.filesOf(first)) && h.running() == 1 })

	second := d.started(t, model.Create{Name: "second"})
	if second.Boot.Cold || from(second) != model.FromTemplate || second.Boot.Origin.Name != "img" || len(second.Boot.Guest) != 0 {
		t.Errorf("the second start: %+v", second.Boot)
	}
	if g := h.look(second); g.Forks != 1 || g.Frozen || g.Name != "second" {
		t.Errorf("the second guest: %+v", g)
	}
	if doc := h.guest; doc.Hostname != "second" || len(doc.Files) != 2 || doc.User != "app" || len(doc.Entropy) < 32 || doc.MachineID != second.ID+second.ID {
		t.Errorf("the second guest was told %+v", doc)
	}
	third := d.started(t, model.Create{Name: "third", Image: "other"})
	if third.Boot.Cold || from(third) != model.FromUniversal {
		t.Errorf("the first start of another image: %+v", third.Boot)
	}
	if g := h.look(third); g.Forks != 0 || g.Name != "third" {
		t.Errorf("its guest: %+v", g)
	}
	waitFor(t, func() bool { _, images := d.kinds(t); return slices.Equal(images, []string{"img", "other"}) })
	if fourth := d.started(t, model.Create{Name: "fourth", Image: "other"}); from(fourth) != model.FromTemplate {
		t.Errorf("the second start of another image: %+v", fourth.Boot)
	}
	if universal, _ := d.kinds(t); universal != 1 || d.givenUp() != 0 {
		t.Errorf("%d universal ones, %d given up", universal, d.givenUp())
	}
	h.closesAll(t)
}

// filesOf lists the files of VMs.
func (h *host) filesOf(vms ...model.VM) (files []string) {
	for _, path := range h.files() {
		for _, v := range vms {
			if !slices.Equal(h.without([]string{path}, v), []string{path}) {
				files = append(files, path)
			}
		}
	}
	return files
}

// TestTemplateFits only machines that are the same in all that matters.
func TestTemplateFits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		req     model.Create
		version string
		want    model.OriginKind
	}{
		"the same":       {model.Create{}, "", model.FromTemplate},
		"environment":    {model.Create{Env: map[string]string{"A": "1"}, User: "me", Workdir: "/x", Labels: map[string]string{"a": "b"}}, "", model.FromTemplate},
		"more disk":      {model.Create{DiskSize: 96 * model.MiB}, "", model.FromTemplate},
		"far more disk":  {model.Create{DiskSize: 1100 * model.GiB}, "", model.FromUniversal}, // than every kernel can make of the template's
		"less disk":      {model.Create{DiskSize: 48 * model.MiB}, "", model.FromUniversal},
		"least disk":     {model.Create{DiskSize: model.MinDiskSize}, "", model.FromUniversal},
		"image":          {model.Create{Image: "other"}, "", model.FromUniversal},
		"CPUs":           {model.Create{VCPUs: ptr(2)}, "", ""},
		"memory":         {model.Create{Memory: model.GiB}, "", ""},
		"kernel":         {model.Create{Kernel: "other"}, "", ""},
		"work disk":      {model.Create{WorkDiskSize: ptr(64 * model.MiB)}, "", ""},
		"VMM":            {model.Create{}, "2.0", ""},
		"asked for boot": {model.Create{Cold: true}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.homes = true
			d := h.withTemplates(t, model.Create{})
			if c.version != "" {
				d.die()
				h.version = c.version
				d = h.daemon()
				d.busy()
			}
			c.req.Name = "a"
			v, err := d.Launch(t.Context(), c.req, func(model.VM) {}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if from(v) != c.want || v.Boot.Cold != (c.want == "") {
				t.Errorf("it went on from %q, not %q", from(v), c.want)
			}
			wanted := []string{"u", "i"}
			switch {
			case c.want == model.FromTemplate, c.req.Cold:
				wanted = nil
			case c.want == model.FromUniversal:
				wanted = []string{"i"}
			}
			if name == "more disk" { // to grow it takes longer than all the rest
				wanted = []string{"i"}
			}
			if got := d.wants(); !slices.Equal(got, wanted) {
				t.Errorf("wanted are now %v, not %v", got, wanted)
			}
			if info, err := os.Stat(h.layout.VM(v.ID).SystemDisk()); err != nil || info.Size() != int64(v.Spec.DiskSize) {
				t.Errorf("its disk: %v, %v", info, err)
			}
			if grown := h.called("drive") == 1 && h.called("resize system") == 1; grown != (name == "more disk") {
				t.Errorf("its disk has grown in the guest: %v", grown)
			}
			h.closesAll(t)
		})
	}
}

// TestTemplateForEachSize has VMs with smaller disks, and with larger ones, get a template of their own: after the first no disk has to grow, nobody
// boots, and no VM takes another's.
func TestTemplateForEachSize(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.homes = true
	h.templates.Off = false
	d := h.daemon()
	d.setUsualWorkDisk(64 * model.MiB)
	idle := d.busy()
	sizes := []model.Create{
		{}, {DiskSize: 48 * model.MiB}, {WorkDiskSize: ptr(48 * model.MiB)}, {DiskSize: model.MinDiskSize, WorkDiskSize: ptr(model.MinDiskSize)},
		{DiskSize: 96 * model.MiB, WorkDiskSize: ptr(96 * model.MiB)}, {WorkDiskSize: ptr(model.Bytes(0))},
	}
	for i, req := range sizes {
		d.started(t, req)
		idle()
		waitFor(t, func() bool { _, images := d.kinds(t); return len(images) == i+1 && len(d.wants()) == 0 })
		idle = d.busy()
	}
	grown := h.called("drive")
	seen := map[string]bool{}
	for i, req := range sizes {
		v := d.started(t, req)
		if from(v) != model.FromTemplate || seen[v.Boot.Origin.Of] || len(d.wants()) != 0 {
			t.Errorf("VM %d went on from %+v; wanted are %v", i, v.Boot.Origin, d.wants())
		}
		seen[v.Boot.Origin.Of] = true
		tpl, err := d.template(t.Context(), v.Boot.Origin.Of)
		if err != nil || tpl.DiskSize != v.Spec.DiskSize || tpl.WorkDiskSize != v.Spec.WorkDiskSize {
			t.Errorf("it has %v and %v, %+v, %v", v.Spec.DiskSize, v.Spec.WorkDiskSize, tpl, err)
		}
	}
	if n := h.called("drive") - grown; n != 0 {
		t.Errorf("%d disks had to grow", n)
	}
	idle()
}

// TestRestartWantsNoTemplate of an image: the VM has disks of its own.
func TestRestartWantsNoTemplate(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.templates.Off = false
	d := h.daemon()
	d.busy()
	v := d.started(t, model.Create{Name: "a", DiskSize: 48 * model.MiB})
	d.forgetWants()
	d.bring(t, v, model.Stopped)
	d.running(t, "a")
	if got := d.wants(); !slices.Equal(got, []string{"u"}) {
		t.Errorf("wanted are %v", got)
	}
}

// TestTemplateWithAWorkDisk gives a VM copies of both disks, which grow to what it asks for.
func TestTemplateWithAWorkDisk(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.homes = true
	d := h.withTemplates(t, model.Create{WorkDiskSize: ptr(64 * model.MiB)})
	d.setUsualWorkDisk(64 * model.MiB)
	v := d.started(t, model.Create{Name: "a", WorkDiskSize: ptr(96 * model.MiB)})
	if from(v) != model.FromTemplate || h.called("resize work") != 1 || h.called("resize system") != 0 {
		t.Errorf("%+v; %v", v.Boot, h.calls)
	}
	if info, err := os.Stat(h.layout.VM(v.ID).WorkDisk()); err != nil || info.Size() != int64(96*model.MiB) {
		t.Errorf("its work disk: %v, %v", info, err)
	}
}

// TestTemplateSparesDisks: a VM that has something on its disks goes on with that.
func TestTemplateSparesDisks(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.homes = true
	d := h.withTemplates(t, model.Create{WorkDiskSize: ptr(64 * model.MiB)})
	v := d.create(t, model.Create{Name: "a", WorkDiskSize: ptr(64 * model.MiB)})
	if _, err := d.Start(t.Context(), "a", model.Start{Cold: true}, nil); err != nil {
		t.Fatal(err)
	}
	h.work(v, "work of a")
	work, _ := os.Stat(h.layout.VM(v.ID).WorkDisk())
	got, err := d.Restart(t.Context(), "a", nil, nil)
	if err != nil || from(got) != model.FromUniversal || h.onDisk(v) != "work of a" {
		t.Errorf("%+v, %v, %q on its disk", got.Boot, err, h.onDisk(v))
	}
	d.bring(t, v, model.Stopped)
	if _, err := d.Set(t.Context(), "a", model.Change{Image: ptr("other")}); err != nil { // whose template could bring an empty work disk, too
		t.Fatal(err)
	}
	if _, err := d.BuildTemplate(t.Context(), model.Create{Image: "other", WorkDiskSize: ptr(64 * model.MiB)}, nil); err != nil {
		t.Fatal(err)
	}
	d.running(t, "a")
	again, err := os.Stat(h.layout.VM(v.ID).WorkDisk())
	if got, _ := d.Get("a"); err != nil || !os.SameFile(work, again) || from(got) != model.FromUniversal || h.onDisk(v) != "" {
		t.Errorf("%v; it went on from %s, with %q on its system disk", err, from(got), h.onDisk(v))
	}
}

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

func (d *daemon) forgetWants() { d.pool().ForgetWanted() }

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

// TestTemplatesAreDeleted by reference and all at once, which what runs on them does not mind.
func TestTemplatesAreDeleted(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withTemplates(t, model.Create{})
	made, err := d.BuildTemplate(t.Context(), model.Create{Image: "other"}, nil)
	if err != nil || len(made) != 2 || made[0].Kind != model.TemplateUniversal || made[1].Kind != model.TemplateImage || made[1].Image != "other" || made[1].ImageID != "id-of-other" {
		t.Fatalf("%+v, %v", made, err)
	}
	if tpl := made[1]; tpl.Kernel != "krn" || tpl.VCPUs != 1 || tpl.Memory != 512*model.MiB || tpl.Size <= 0 || tpl.LastUsed.Before(tpl.Created.Truncate(1e9)) {
		t.Errorf("%+v", tpl)
	}
	v := d.started(t, model.Create{Name: "a", Image: "other"})
	h.work(v, "work of a")
	for _, ref := range []string{"", "nothing", "../" + made[0].Key} {
		if _, err := d.deleteTemplate(t.Context(), ref); fault.KindOf(err) != fault.NotFound {
			t.Errorf("%q: %v", ref, err)
		}
	}
	if _, err := d.template(t.Context(), "i"); fault.KindOf(err) != fault.Invalid {
		t.Errorf("one of two: %v", err)
	}
	if got, err := d.deleteTemplate(t.Context(), "other"); err != nil || got.Key != made[1].Key {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := d.deleteTemplate(t.Context(), made[0].Key[:10]); err != nil || got.Key != made[0].Key {
		t.Errorf("%+v, %v", got, err)
	}
	if universal, images := d.kinds(t); universal != 0 || !slices.Equal(images, []string{"img"}) {
		t.Errorf("left: %d universal ones, %v", universal, images)
	}
	if pruned, err := d.pruneTemplates(t.Context(), true); err != nil || len(pruned.Removed) != 0 {
		t.Errorf("none is stale, but %+v, %v", pruned, err)
	}
	h.delete("id-of-img", true)
	if pruned, err := d.pruneTemplates(t.Context(), true); err != nil || len(pruned.Removed) != 1 || pruned.Freed <= 0 {
		t.Errorf("%+v, %v", pruned, err)
	}
	h.delete("id-of-img", false)
	if _, err := d.BuildTemplate(t.Context(), model.Create{}, nil); err != nil {
		t.Error(err)
	}
	if pruned, err := d.pruneTemplates(t.Context(), false); err != nil || len(pruned.Removed) != 2 || len(h.stored()) != 0 {
		t.Errorf("%+v, %v, %v", pruned, err, h.stored())
	}
	d.isFork(t, d.fork(t, v, model.Fork{})[0], v, "work of a")
	d.suspend(t, v)
	d.resume(t, v)
	d.goesOn(t, v)
}

// TestTemplateIsListedWhileItIsMade with all that is known of it by then, whoever has it made, and once when it is there.
func TestTemplateIsListedWhileItIsMade(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(d *daemon, req model.Create) (end func()){
		"background": func(d *daemon, req model.Create) func() {
			d.started(d.t, req)
			return func() {}
		},
		"request": func(d *daemon, req model.Create) func() {
			errs := make(chan error, 1)
			go func() { _, err := d.BuildTemplate(d.t.Context(), req, nil); errs <- err }()
			return func() {
				if err := <-errs; err != nil {
					d.t.Error(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.templates.Off = false
			d := h.daemon()
			universal, image := h.hanging("build do agent"), h.hanging("build exec")
			end := begin(d, model.Create{Image: "other", VCPUs: ptr(2), DiskSize: 48 * model.MiB})
			var seen []model.Template
			for _, c := range []struct {
				hook    string
				release func()
			}{{"build do agent", universal}, {"build exec", image}} {
				waitFor(t, func() bool { return h.called(c.hook) > 0 })
				list, err := d.listTemplates(t.Context())
				if err != nil || len(list) != len(seen)+1 || !list[0].Building || len(seen) > 0 && list[1].Building {
					t.Fatalf("%+v, %v", list, err)
				}
				seen = append(seen, list[0])
				if got, err := d.template(t.Context(), list[0].Key[:8]); err != nil || got != list[0] {
					t.Errorf("%+v, %v", got, err)
				}
				c.release()
			}
			end()
			waitFor(t, func() bool { return !d.pool().IsMaking() && len(d.wants()) == 0 })
			for _, was := range seen {
				is, err := d.template(t.Context(), was.Key)
				if err != nil || is.Building || is.Size == 0 || was.Size != 0 || is.Created.Before(was.Created) || is.Uses != 0 {
					t.Errorf("%+v became %+v, %v", was, is, err)
				}
				is.Building, is.Size, is.Created, is.LastUsed = was.Building, was.Size, was.Created, was.LastUsed
				if is != was {
					t.Errorf("%+v became %+v", was, is)
				}
			}
			if tpl := seen[1]; tpl.Image != "other" || tpl.ImageID != "id-of-other" || tpl.Kernel != "krn" || tpl.VCPUs != 2 || tpl.DiskSize != 48*model.MiB {
				t.Errorf("%+v", tpl)
			}
		})
	}
}

// TestTemplateUses counts the VMs that were forked from a template, also those before a daemon that was killed, and nothing else.
func TestTemplateUses(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withTemplates(t, model.Create{}) // the image's was made from the universal one, which is no use
	uses := func(want ...int) {             // of the universal one, and of the images'
		t.Helper()
		list, err := d.listTemplates(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]int{}
		for _, tpl := range list {
			got[tpl.Image] = tpl.Uses
			if tpl.Uses == 0 && !tpl.LastUsed.Equal(tpl.Created) || tpl.Uses > 0 && !tpl.LastUsed.After(tpl.Created) {
				t.Errorf("%+v", tpl)
			}
		}
		if got[""] != want[0] || got["img"] != want[1] {
			t.Errorf("used are %v, want %v", got, want)
		}
	}
	uses(0, 0)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := d.Launch(t.Context(), model.Create{}, func(model.VM) {}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	uses(0, 4)
	d.started(t, model.Create{Image: "other"})
	if _, err := d.Launch(t.Context(), model.Create{Cold: true}, func(model.VM) {}, nil); err != nil {
		t.Error(err)
	}
	uses(1, 4)
	h.failing("do post-start/one", errBoom)
	if _, err := d.Launch(t.Context(), model.Create{}, func(model.VM) {}, nil); err == nil {
		t.Error("it started")
	}
	h.failing("do post-start/one", nil)
	uses(1, 4)
	d = d.killed(func() {})
	d.busy()
	uses(1, 4)
	d.started(t, model.Create{})
	uses(1, 5)
	if _, err := d.deleteTemplate(t.Context(), "img"); err != nil {
		t.Error(err)
	}
	if _, err := d.BuildTemplate(t.Context(), model.Create{}, nil); err != nil {
		t.Error(err)
	}
	uses(1, 0)
	if pruned, err := d.pruneTemplates(t.Context(), false); err != nil || len(pruned.Removed) != 2 || len(h.stored()) != 0 {
		t.Errorf("%+v, %v, %v", pruned, err, h.stored())
	}
}

// TestTemplatesHaveABudget: what nobody can use goes first, then what was used least recently.
func TestTemplatesHaveABudget(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withTemplates(t, model.Create{})
	for _, image := range []string{"two", "three"} {
		if _, err := d.BuildTemplate(t.Context(), model.Create{Image: image}, nil); err != nil {
			t.Fatal(err)
		}
	}
	d.started(t, model.Create{Name: "a"}) // uses the oldest
	list, err := d.listTemplates(t.Context())
	if err != nil || len(list) != 4 || list[0].Image != "img" {
		t.Fatalf("%+v, %v", list, err)
	}
	var sum model.Bytes
	for _, tpl := range list {
		sum += tpl.Size
	}
	d.Manager.templates.Budget = sum + list[0].Size/2 // for those four, but not for a fifth
	if _, err := d.BuildTemplate(t.Context(), model.Create{Image: "five"}, nil); err != nil {
		t.Fatal(err)
	}
	if universal, images := d.kinds(t); universal != 1 || !slices.Equal(images, []string{"five", "img", "three"}) { // five was made from the universal one
		t.Errorf("left: %d universal ones, %v", universal, images)
	}
	h.delete("id-of-img", true) // which was used last but one
	if _, err := d.BuildTemplate(t.Context(), model.Create{Image: "six"}, nil); err != nil {
		t.Fatal(err)
	}
	if universal, images := d.kinds(t); universal != 1 || !slices.Equal(images, []string{"five", "six", "three"}) {
		t.Errorf("left: %d universal ones, %v", universal, images)
	}
	d.Manager.templates.Budget = 1 // one alone may be larger
	if _, err := d.BuildTemplate(t.Context(), model.Create{Image: "seven"}, nil); err != nil {
		t.Fatal(err)
	}
	if list, err := d.listTemplates(t.Context()); err != nil || len(list) != 1 || list[0].Image != "seven" {
		t.Errorf("left: %+v, %v", list, err)
	}
}

// TestTemplatesOff neither makes nor uses any.
func TestTemplatesOff(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withTemplates(t, model.Create{})
	d.die()
	h.templates.Off = true
	d = h.daemon()
	if v := d.started(t, model.Create{Name: "a"}); !v.Boot.Cold || len(d.wants()) != 0 {
		t.Errorf("%+v, wanted are %v", v.Boot, d.wants())
	}
	if _, err := d.BuildTemplate(t.Context(), model.Create{}, nil); fault.KindOf(err) != fault.Unsupported || fault.HintOf(err) == "" {
		t.Errorf("got %v", err)
	}
	if pruned, err := d.pruneTemplates(t.Context(), false); err != nil || len(pruned.Removed) != 2 {
		t.Errorf("those that are left: %+v, %v", pruned, err)
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
