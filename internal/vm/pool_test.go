package vm

import (
	"slices"
	"testing"
	"time"

	"banger/internal/model"
)

// busy keeps the background from building templates until idle is called, as a user's operation
// does.
func (d *daemon) busy() (idle func()) { return d.ops.Begin() }

// withTemplates starts a daemon that has the templates of a VM and builds no others by itself.
func (h *host) withTemplates(t *testing.T, of model.Create) *daemon {
	t.Helper()
	h.templates.Off = false
	d := h.daemon()
	d.busy()
	if made, err := d.BuildTemplate(t.Context(), of, nil); err != nil || len(made) != 2 {
		t.Fatalf("two templates are to be built, not %+v, %v", made, err)
	}
	return d
}

// withStandby starts a daemon that has a template and one machine on standby, and prepares no
// others.
func (h *host) withStandby(t *testing.T, of model.Create) *daemon {
	t.Helper()
	h.templates.Standby = 1
	d := h.withTemplates(t, of)
	if err := d.pool().Fill(t.Context(), d.specFor(t, of)); err != nil || d.standbys(t) != 1 {
		t.Fatalf("one machine is to be on standby, not %d, %v", d.standbys(t), err)
	}
	return d
}

// templateKinds counts the universal templates, and lists the images of the others.
func (d *daemon) templateKinds(t *testing.T) (universal int, images []string) {
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

// standbys counts the machines on standby.
func (d *daemon) standbys(t *testing.T) (n int) {
	t.Helper()
	list, err := d.listTemplates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tpl := range list {
		n += tpl.Standby
	}
	return n
}

// wanted lists the templates to be built by their kinds' first letters. The first of them may
// already wait for its turn.
func (d *daemon) wanted() []string { return d.pool().Wanted() }

// postponed counts the templates whose builds have failed and are not retried yet.
func (d *daemon) postponed() int { return d.pool().SetBack() }

// passTime lets time pass for postponed builds.
func (d *daemon) passTime(some time.Duration) { d.pool().Pass(some) }

func (d *daemon) forgetWants() { d.pool().ForgetWanted() }
