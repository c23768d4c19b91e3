package vm

import (
	"slices"
	"sync"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

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
