package vm

import (
	"slices"
	"testing"
	"time"

	"banger/internal/model"
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

// withStandby starts a daemon with a template and one machine on standby from it, and nothing more to come.
func (h *host) withStandby(t *testing.T, of model.Create) *daemon {
	t.Helper()
	h.templates.Standby = 1
	d := h.withTemplates(t, of)
	if err := d.pool().Fill(t.Context(), d.specFor(t, of)); err != nil || d.standbys(t) != 1 {
		t.Fatalf("%d on standby, %v", d.standbys(t), err)
	}
	return d
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

// wants lists the templates that are to be made, by their kinds' first letters. The first of them may wait for its turn already.
func (d *daemon) wants() []string { return d.pool().Wanted() }

// givenUp counts the templates that no start will have made for a while.
func (d *daemon) givenUp() int { return d.pool().SetBack() }

// passes makes as much time pass for what could not be made.
func (d *daemon) passes(some time.Duration) { d.pool().Pass(some) }

func (d *daemon) forgetWants() { d.pool().ForgetWanted() }
