package image

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestTemplateSettings checks that the settings of an image's templates lie beside the image.
func TestTemplateSettings(t *testing.T) {
	s := newStore(t, Options{})
	n := Templates{s}
	img, err := s.Import(t.Context(), write(t, filepath.Join(t.TempDir(), "root.tar"), makeTar(t, rootFiles...)), ImportOptions{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := n.Template(img.ID)
	if err != nil || got.Mode != model.TemplateAuto || got.Refused() {
		t.Errorf("the settings of a new image are %+v: %v", got, err)
	}
	want := model.ImageTemplate{Mode: model.TemplateAuto, Shared: []string{"/etc/app/key"}, Cut: true, Keys: []string{"not stored"}}
	if err := n.SetTemplate(t.Context(), img.ID, want); err != nil {
		t.Fatal(err)
	}
	want.Keys = nil
	if got, err := n.Template(img.ID); err != nil || !reflect.DeepEqual(got, want) || !got.Refused() {
		t.Errorf("the settings are %+v, want %+v: %v", got, want, err)
	}
	if _, err := s.Get(img.ID); err != nil {
		t.Errorf("the image cannot be read any more: %v", err)
	}
	if err := n.SetTemplate(t.Context(), strings.Repeat("0", 64), want); fault.KindOf(err) != fault.NotFound {
		t.Errorf("setting a missing image returned %v", err)
	}
	if _, err := n.Template("../../etc"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a path as an id returned %v", err)
	}
	for mode, refused := range map[model.TemplateMode]bool{model.TemplateAuto: true, model.TemplateOn: false, model.TemplateOff: true} {
		if got := (model.ImageTemplate{Mode: mode, Shared: []string{"x"}}).Refused(); got != refused {
			t.Errorf("with the mode %s a shared secret is refused: %v", mode, got)
		}
	}
}
