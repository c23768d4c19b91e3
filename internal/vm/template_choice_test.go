package vm

import (
	"os"
	"slices"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestTemplatesAreBuiltInTheBackground starts VMs without a template. The first one boots, the
// second one starts from its image's template, and the first one of another image starts from the
// universal template.
func TestTemplatesAreBuiltInTheBackground(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.templates.Off = false
	d := h.daemon()
	idle := d.busy()
	first := d.started(t, model.Create{Name: "first", Env: map[string]string{"SECRET": "1"}})
	wantOrigin(t, first, "")
	d.wantWanted(t, "u", "i") // while another operation is under way
	h.wantStored(t, 0)
	h.wantCalls(t, "build do vmm", 0)
	idle()
	waitFor(t, func() bool { _, images := d.templateKinds(t); return len(images) == 1 })
	d.wantTemplates(t, 1, "img")
	h.wantCalls(t, "build restore", 1) // the image's template, from the universal one
	g := h.guest
	equal(t, "the template's host name", g.Hostname, "template")
	equal(t, "the template's user", g.User, "")
	claim(t, len(g.Files) == 0, "the template got the files %v", g.Files)
	claim(t, !slices.Contains(g.Env, "SECRET=1"), "the template got the first VM's secret: %v", g.Env)
	waitFor(t, func() bool { return len(h.files()) == len(h.filesOf(first)) && h.running() == 1 })

	second := d.started(t, model.Create{Name: "second"})
	wantOrigin(t, second, model.FromTemplate)
	equal(t, "the name of the second VM's template", originName(second), "img")
	claim(t, len(second.Boot.Guest) == 0, "the second VM has the marks of a boot: %v", second.Boot.Guest)
	h.wantGuest(t, second, "second", 1)
	doc := h.guest
	equal(t, "the second guest's host name", doc.Hostname, "second")
	equal(t, "the second guest's user", doc.User, "app")
	equal(t, "the second guest's machine id", doc.MachineID, second.ID+second.ID)
	equal(t, "the number of files that capabilities contributed", len(doc.Files), 2)
	claim(t, len(doc.Entropy) >= 32,
		"the second guest got %d bytes of entropy: at least 32 are wanted", len(doc.Entropy))
	third := d.started(t, model.Create{Name: "third", Image: "other"})
	wantOrigin(t, third, model.FromUniversal)
	h.wantGuest(t, third, "third", 0)
	waitFor(t, func() bool { _, images := d.templateKinds(t); return slices.Equal(images, []string{"img", "other"}) })
	wantOrigin(t, d.started(t, model.Create{Name: "fourth", Image: "other"}), model.FromTemplate)
	d.wantTemplates(t, 1, "img", "other")
	d.wantPostponed(t, 0)
	h.waitClosed(t)
}

// TestTemplateFits checks that only VMs whose machines are the same in all that matters start from
// a template.
func TestTemplateFits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		req     model.Create
		version string
		want    model.OriginKind
	}{
		"the same":    {model.Create{}, "", model.FromTemplate},
		"environment": {model.Create{Env: map[string]string{"A": "1"}, User: "me", Workdir: "/x", Labels: map[string]string{"a": "b"}}, "", model.FromTemplate},
		"more disk":   {model.Create{DiskSize: 96 * model.MiB}, "", model.FromTemplate},
		// A file system grows only by a factor that its kernel supports.
		"far more disk":  {model.Create{DiskSize: 1100 * model.GiB}, "", model.FromUniversal},
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
			wantOrigin(t, v, c.want)
			wanted := []string{"u", "i"}
			switch {
			case c.want == model.FromTemplate, c.req.Cold:
				wanted = nil
			case c.want == model.FromUniversal:
				wanted = []string{"i"}
			}
			if name == "more disk" { // growing a disk takes longer than the rest of a start
				wanted = []string{"i"}
			}
			d.wantWanted(t, wanted...)
			wantSize(t, h.layout.VM(v.ID).SystemDisk(), v.Spec.DiskSize)
			if grown := h.called("drive") == 1 && h.called("resize system") == 1; grown != (name == "more disk") {
				t.Errorf("the disk has grown in the guest: %v", grown)
			}
			h.waitClosed(t)
		})
	}
}

// TestTemplateForEachSize checks that each combination of disk sizes gets a template of its own.
// After its first VM no disk has to grow, and no VM boots.
func TestTemplateForEachSize(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.homes = true
	h.templates.Off = false
	d := h.daemon()
	d.setUsualWorkDisk(64 * model.MiB)
	idle := d.busy()
	sizes := []model.Create{
		{}, {DiskSize: 48 * model.MiB}, {WorkDiskSize: ptr(48 * model.MiB)},
		{DiskSize: model.MinDiskSize, WorkDiskSize: ptr(model.MinDiskSize)},
		{DiskSize: 96 * model.MiB, WorkDiskSize: ptr(96 * model.MiB)}, {WorkDiskSize: ptr(model.Bytes(0))},
	}
	for i, req := range sizes {
		d.started(t, req)
		idle()
		waitFor(t, func() bool { _, images := d.templateKinds(t); return len(images) == i+1 && len(d.wanted()) == 0 })
		idle = d.busy()
	}
	grown := h.called("drive")
	seen := map[string]bool{}
	for i, req := range sizes {
		v := d.started(t, req)
		wantOrigin(t, v, model.FromTemplate)
		claim(t, !seen[v.Boot.Origin.Of], "VM %d started from the template of another size", i)
		d.wantWanted(t)
		seen[v.Boot.Origin.Of] = true
		tpl, err := d.template(t.Context(), v.Boot.Origin.Of)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "the template's disk size", tpl.DiskSize, v.Spec.DiskSize)
		equal(t, "the size of the template's work disk", tpl.WorkDiskSize, v.Spec.WorkDiskSize)
	}
	h.wantCalls(t, "drive", grown)
	idle()
}

// TestRestartWantsNoTemplate checks that a restart does not request a template of the image,
// because the VM has its disks.
func TestRestartWantsNoTemplate(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.templates.Off = false
	d := h.daemon()
	d.busy()
	v := d.started(t, model.Create{Name: "a", DiskSize: 48 * model.MiB})
	d.forgetWants()
	d.bringTo(t, v, model.Stopped)
	d.start(t, "a")
	d.wantWanted(t, "u")
}

// TestTemplateWithAWorkDisk checks that a VM gets copies of both disks, which grow to the
// requested sizes.
func TestTemplateWithAWorkDisk(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.homes = true
	d := h.withTemplates(t, model.Create{WorkDiskSize: ptr(64 * model.MiB)})
	d.setUsualWorkDisk(64 * model.MiB)
	v := d.started(t, model.Create{Name: "a", WorkDiskSize: ptr(96 * model.MiB)})
	wantOrigin(t, v, model.FromTemplate)
	h.wantCalls(t, "resize work", 1)
	h.wantCalls(t, "resize system", 0)
	wantSize(t, h.layout.VM(v.ID).WorkDisk(), 96*model.MiB)
}

// TestTemplateKeepsExistingDisks checks that a start from a template keeps the disks that a VM
// has.
func TestTemplateKeepsExistingDisks(t *testing.T) {
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
	if err != nil {
		t.Fatal(err)
	}
	wantOrigin(t, got, model.FromUniversal)
	h.wantOnDisk(t, v, "work of a")
	d.bringTo(t, v, model.Stopped)
	// The other image's template has an empty work disk, too.
	if _, err := d.Set(t.Context(), "a", model.Change{Image: ptr("other")}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.BuildTemplate(t.Context(), model.Create{Image: "other", WorkDiskSize: ptr(64 * model.MiB)}, nil); err != nil {
		t.Fatal(err)
	}
	d.start(t, "a")
	again, err := os.Stat(h.layout.VM(v.ID).WorkDisk())
	if err != nil {
		t.Fatal(err)
	}
	claim(t, os.SameFile(work, again), "the VM lost its work disk")
	got, _ = d.Get("a")
	wantOrigin(t, got, model.FromUniversal)
	h.wantOnDisk(t, v, "") // the system disk is fresh, for the other image
}

// TestTemplatesOff checks that templates that are turned off are neither built nor used.
func TestTemplatesOff(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withTemplates(t, model.Create{})
	d.die()
	h.templates.Off = true
	d = h.daemon()
	wantOrigin(t, d.started(t, model.Create{Name: "a"}), "")
	d.wantWanted(t)
	_, err := d.BuildTemplate(t.Context(), model.Create{}, nil)
	wantKind(t, "a build without templates", err, fault.Unsupported)
	wantHint(t, "a build without templates", err, "")
	wantPruned(t, 2)(d.pruneTemplates(t.Context(), false)) // those that are left
}
