package vm

import (
	"os"
	"slices"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

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
