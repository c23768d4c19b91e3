package daemon

import (
	"archive/tar"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"banger/internal/fault"
	"banger/internal/image"
	"banger/internal/model"
)

// oneTemplate is an image's template until it is removed.
type oneTemplate struct{ gone bool }

func (o *oneTemplate) Keys(context.Context, string) ([]string, error) {
	if o.gone {
		return nil, nil
	}
	return []string{"key"}, nil
}

func (o *oneTemplate) Forget(context.Context, string) error {
	o.gone = true
	return nil
}

// TestImageSettings turns the templates of an image on and off. Templates that are refused go.
func TestImageSettings(t *testing.T) {
	dir := t.TempDir()
	store, err := image.Open(filepath.Join(dir, "images"), filepath.Join(dir, "blobs"), slog.New(slog.DiscardHandler), image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	made := &oneTemplate{}
	s := images{store, image.Templates{Store: store}, func() madeTemplates { return made }}
	img, err := store.Import(t.Context(), smallRoot(t), image.ImportOptions{Name: "box"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	note := model.ImageTemplate{Mode: model.TemplateAuto, Shared: []string{"/etc/app/key"}}
	if err := s.settings.SetTemplate(t.Context(), img.ID, note); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mode         model.TemplateMode // "": only looked at
		shared, keys []string
	}{
		{"", note.Shared, []string{"key"}}, {model.TemplateOn, nil, []string{"key"}}, {model.TemplateOff, nil, nil},
	} {
		want := c.mode
		got, err := s.Describe(t.Context(), "box")
		if c.mode != "" {
			got, err = s.Change(t.Context(), "box", model.ImageChange{Template: c.mode})
		} else {
			want = model.TemplateAuto
		}
		if err != nil || got.Template == nil {
			t.Fatalf("%s: the image is %+v: %v", want, got, err)
		}
		if got.Template.Mode != want || !slices.Equal(got.Template.Shared, c.shared) || !slices.Equal(got.Template.Keys, c.keys) {
			t.Errorf("%s: the image's templates are %+v", want, got.Template)
		}
	}
	if _, err := s.Change(t.Context(), "box", model.ImageChange{Template: "maybe"}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("an unknown mode was answered with %v", err)
	}
	if _, err := s.Change(t.Context(), "other", model.ImageChange{Template: model.TemplateOn}); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a missing image was answered with %v", err)
	}
}

// smallRoot makes a root file system.
func smallRoot(t *testing.T) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "root.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for _, name := range []string{"etc/", "bin/"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}
