package vm

import (
	"context"
	"sync"
	"testing"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/model"
)

// notes keeps what is known of images' templates in memory.
type notes struct {
	mu sync.Mutex
	of map[string]model.ImageTemplate
}

func (n *notes) Template(id string) (model.ImageTemplate, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t, ok := n.of[id]; ok {
		return t, nil
	}
	return model.ImageTemplate{Mode: model.TemplateAuto}, nil
}

func (n *notes) SetTemplate(_ context.Context, id string, t model.ImageTemplate) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.of == nil {
		n.of = map[string]model.ImageTemplate{}
	}
	n.of[id] = t
	return nil
}

// TestFirstBootSecretsAreNotShared makes the first boot of an image write a key. The image gets no
// template, until the user asks for one. The universal template is made all the same.
func TestFirstBootSecretsAreNotShared(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	known := &notes{}
	h.templates.Off, h.templates.Notes = false, known
	d := h.daemon()
	idle := d.busy()
	h.writes = proto.Writes{Paths: []string{"/etc/hostname", "/etc/app/key"}}
	_, err := d.BuildTemplate(t.Context(), model.Create{}, nil)
	wantKind(t, "building a template with a secret", err, fault.Unsupported)
	wantHint(t, "building a template with a secret", err, "banger image set --template=on img")
	d.wantTemplates(t, 1)
	note, _ := known.Template("id-of-img")
	equalLists(t, "the noted secrets", note.Shared, []string{"/etc/app/key"})

	boots := h.called("build do assume")
	_, err = d.BuildTemplate(t.Context(), model.Create{}, nil)
	wantKind(t, "building it again", err, fault.Unsupported)
	h.wantCalls(t, "build do assume", boots) // what is known is not found out again
	wantOrigin(t, d.started(t, model.Create{Name: "a"}), model.FromUniversal)
	idle()
	waitFor(t, func() bool { return len(d.wanted()) == 0 })
	d.wantPostponed(t, 0) // a refusal is no failure
	h.wantCalls(t, "build do assume", boots)
	d.busy()

	if err := known.SetTemplate(t.Context(), "id-of-img", model.ImageTemplate{Mode: model.TemplateOn}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.BuildTemplate(t.Context(), model.Create{}, nil); err != nil {
		t.Error(err)
	}
	d.wantTemplates(t, 1, "img")
	wantOrigin(t, d.started(t, model.Create{Name: "b"}), model.FromTemplate)

	if err := d.pool().Forget(t.Context(), "id-of-img"); err != nil {
		t.Error(err)
	}
	d.wantTemplates(t, 1)
	h.writes.Renewed = []string{"/etc/app/"}
	if err := known.SetTemplate(t.Context(), "id-of-img", model.ImageTemplate{Mode: model.TemplateAuto}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.BuildTemplate(t.Context(), model.Create{}, nil); err != nil {
		t.Errorf("a secret that each VM makes anew is refused: %v", err)
	}
	d.wantTemplates(t, 1, "img")
	h.waitClosed(t)
}

// TestInitsThatDoNotReportReadiness builds templates of images with an init. If the init does not
// report that its services have started, the image gets no template, until the user asks for one.
func TestInitsThatDoNotReportReadiness(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]bool{0: true, 42: false, 43: false, 127: false} {
		h := newHost(t)
		known := &notes{}
		h.templates.Off, h.templates.Notes = false, known
		h.status = status
		d := h.daemon()
		d.busy()
		_, err := d.BuildTemplate(t.Context(), model.Create{Image: imageWithInit}, nil)
		claim(t, (err == nil) == want, "if the wait for the init ends with %d, building a template returns %v", status, err)
		note, _ := known.Template("id-of-" + imageWithInit)
		equal(t, "what is noted of the init", note.Unready, status == 42 || status == 127)
		if !note.Unready {
			continue
		}
		wantKind(t, "building a template of an image that is never ready", err, fault.Unsupported)
		wantHint(t, "building it", err, "banger image set --template=on "+imageWithInit)
		if err := known.SetTemplate(t.Context(), "id-of-"+imageWithInit, model.ImageTemplate{Mode: model.TemplateOn}); err != nil {
			t.Fatal(err)
		}
		if _, err := d.BuildTemplate(t.Context(), model.Create{Image: imageWithInit}, nil); err != nil {
			t.Errorf("building a template that the user asks for: %v", err)
		}
	}
}
