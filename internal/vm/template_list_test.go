package vm

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestTemplatesAreDeleted deletes templates by reference and all at once. VMs that started from
// them are not affected.
func TestTemplatesAreDeleted(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withTemplates(t, model.Create{})
	made, err := d.BuildTemplate(t.Context(), model.Create{Image: "other"}, nil)
	if err != nil || len(made) != 2 {
		t.Fatalf("two templates are to be listed, not %+v, %v", made, err)
	}
	equal(t, "the first template's kind", made[0].Kind, model.TemplateUniversal)
	equal(t, "the second template's kind", made[1].Kind, model.TemplateImage)
	equal(t, "the second template's image", made[1].Image, "other")
	equal(t, "the id of the second template's image", made[1].ImageID, "id-of-other")
	tpl := made[1]
	equal(t, "the template's kernel", tpl.Kernel, "krn")
	equal(t, "the template's number of vCPUs", tpl.VCPUs, 1)
	equal(t, "the template's memory", tpl.Memory, 512*model.MiB)
	claim(t, tpl.Size > 0, "the template's size is %v", tpl.Size)
	claim(t, !tpl.LastUsed.Before(tpl.Created.Truncate(1e9)),
		"the template was used at %v, before it was created at %v", tpl.LastUsed, tpl.Created)
	v := d.started(t, model.Create{Name: "a", Image: "other"})
	h.work(v, "work of a")
	for _, ref := range []string{"", "nothing", "../" + made[0].Key} {
		if _, err := d.deleteTemplate(t.Context(), ref); fault.KindOf(err) != fault.NotFound {
			t.Errorf("deleting %q returned %v", ref, err)
		}
	}
	if _, err := d.template(t.Context(), "i"); fault.KindOf(err) != fault.Invalid {
		t.Errorf("an ambiguous reference returned %v", err)
	}
	if got, err := d.deleteTemplate(t.Context(), "other"); err != nil || got.Key != made[1].Key {
		t.Errorf("the image's name must delete its template, not %+v, %v", got, err)
	}
	if got, err := d.deleteTemplate(t.Context(), made[0].Key[:10]); err != nil || got.Key != made[0].Key {
		t.Errorf("the beginning of a key must delete its template, not %+v, %v", got, err)
	}
	d.wantTemplates(t, 0, "img")
	wantPruned(t, 0)(d.pruneTemplates(t.Context(), true)) // none is stale
	h.setGone("id-of-img", true)
	pruned, err := d.pruneTemplates(t.Context(), true)
	wantPruned(t, 1)(pruned, err)
	claim(t, pruned.Freed > 0, "the prune of a template freed %v", pruned.Freed)
	h.setGone("id-of-img", false)
	if _, err := d.BuildTemplate(t.Context(), model.Create{}, nil); err != nil {
		t.Error(err)
	}
	wantPruned(t, 2)(d.pruneTemplates(t.Context(), false))
	h.wantStored(t, 0)
	d.wantFork(t, d.fork(t, v, model.Fork{})[0], v, "work of a")
	d.suspend(t, v)
	d.resume(t, v)
	d.wantContinues(t, v)
}

// TestTemplateIsListedWhileItIsBuilt checks that a template is listed once, both while it is
// built, with all that is known by then, and afterwards.
func TestTemplateIsListedWhileItIsBuilt(t *testing.T) {
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
				if err != nil || len(list) != len(seen)+1 {
					t.Fatalf("%d templates are to be listed, not %+v, %v", len(seen)+1, list, err)
				}
				claim(t, list[0].Building, "the template is not listed as being built: %+v", list[0])
				for _, done := range list[1:] {
					claim(t, !done.Building, "the finished template is listed as being built: %+v", done)
				}
				seen = append(seen, list[0])
				if got, err := d.template(t.Context(), list[0].Key[:8]); err != nil || got != list[0] {
					t.Errorf("the beginning of its key must find the template as listed, not %+v, %v", got, err)
				}
				c.release()
			}
			end()
			waitFor(t, func() bool { return !d.pool().IsMaking() && len(d.wanted()) == 0 })
			for _, was := range seen {
				is, err := d.template(t.Context(), was.Key)
				if err != nil {
					t.Fatal(err)
				}
				claim(t, !is.Building, "the finished template is listed as being built: %+v", is)
				claim(t, is.Size != 0, "the finished template has no size")
				claim(t, !is.Created.Before(was.Created),
					"the template was finished at %v, before it was begun at %v", is.Created, was.Created)
				equal(t, "the number of its uses", is.Uses, 0)
				equal(t, "its size while it was built", was.Size, 0)
				is.Building, is.Size, is.Created, is.LastUsed = was.Building, was.Size, was.Created, was.LastUsed
				if is != was {
					t.Errorf("the template was listed as %+v while it was built, and then as %+v", was, is)
				}
			}
			tpl := seen[1]
			equal(t, "the image while the template is built", tpl.Image, "other")
			equal(t, "the image's id while the template is built", tpl.ImageID, "id-of-other")
			equal(t, "the kernel while the template is built", tpl.Kernel, "krn")
			equal(t, "the number of vCPUs while the template is built", tpl.VCPUs, 2)
			equal(t, "the disk size while the template is built", tpl.DiskSize, 48*model.MiB)
		})
	}
}

// TestTemplateUses checks that only VMs that started from a template count as its uses, also those
// of a killed daemon.
func TestTemplateUses(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withTemplates(t, model.Create{}) // a build from the universal one is no use
	uses := func(want ...int) {             // of the universal one, and of the images'
		t.Helper()
		list, err := d.listTemplates(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]int{}
		for _, tpl := range list {
			got[tpl.Image] = tpl.Uses
			if tpl.Uses == 0 {
				claim(t, tpl.LastUsed.Equal(tpl.Created), "an unused template was used at %v: %+v", tpl.LastUsed, tpl)
			} else {
				claim(t, tpl.LastUsed.After(tpl.Created), "a used template was used at %v: %+v", tpl.LastUsed, tpl)
			}
		}
		equal(t, "the number of the universal template's uses", got[""], want[0])
		equal(t, "the number of the image's template's uses", got["img"], want[1])
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
		t.Error("a launch with a failing hook succeeded")
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
	wantPruned(t, 2)(d.pruneTemplates(t.Context(), false))
	h.wantStored(t, 0)
}

// TestTemplatesHaveABudget checks that templates that cannot be used are evicted first, then the
// least recently used ones.
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
	if err != nil || len(list) != 4 {
		t.Fatalf("four templates are to be listed, not %+v, %v", list, err)
	}
	equal(t, "the image of the template that was used last", list[0].Image, "img")
	var sum model.Bytes
	for _, tpl := range list {
		sum += tpl.Size
	}
	d.Manager.templates.Budget = sum + list[0].Size/2 // for these four, but not for a fifth
	if _, err := d.BuildTemplate(t.Context(), model.Create{Image: "five"}, nil); err != nil {
		t.Fatal(err)
	}
	d.wantTemplates(t, 1, "five", "img", "three") // five was made from the universal one
	h.setGone("id-of-img", true)                  // the last but one to be used
	if _, err := d.BuildTemplate(t.Context(), model.Create{Image: "six"}, nil); err != nil {
		t.Fatal(err)
	}
	d.wantTemplates(t, 1, "five", "six", "three")
	d.Manager.templates.Budget = 1 // one alone may be larger
	if _, err := d.BuildTemplate(t.Context(), model.Create{Image: "seven"}, nil); err != nil {
		t.Fatal(err)
	}
	if list, err := d.listTemplates(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("one template is to be listed, not %+v, %v", list, err)
	} else {
		equal(t, "the image of the template that is left", list[0].Image, "seven")
	}
}

// TestTemplatesAfterAClockThatWasAhead: the templates on disk have marks of use from the future. A
// new one is kept all the same, and the least recently used one is evicted.
func TestTemplatesAfterAClockThatWasAhead(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withTemplates(t, model.Create{})
	list, err := d.listTemplates(t.Context())
	if err != nil || len(list) != 2 {
		t.Fatalf("two templates are to be listed, not %+v, %v", list, err)
	}
	var sum model.Bytes
	for i, tpl := range list {
		sum += tpl.Size
		ahead := time.Now().Add(time.Hour + time.Duration(i)*time.Second)
		if tpl.Kind == model.TemplateUniversal {
			ahead = ahead.Add(time.Minute)
		}
		if err := os.Chtimes(filepath.Join(h.layout.Templates(), tpl.Key), ahead, ahead); err != nil {
			t.Fatal(err)
		}
	}
	d.die()
	d = h.daemon()
	d.Manager.templates.Budget = sum + list[0].Size/2
	if _, err := d.BuildTemplate(t.Context(), model.Create{Image: "new"}, nil); err != nil {
		t.Fatal(err)
	}
	d.wantTemplates(t, 1, "new")
}
