package image

import (
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"banger/internal/fault"
)

// TestIDIsNoName claims that an id leads to its own image only, whatever names images have.
func TestIDIsNoName(t *testing.T) {
	s := newStore(t, Options{})
	pinned := importFile(t, s, "pinned", "mine")
	other := makeImage(t, tarLayer(t, file{name: "etc/os-release", body: "other"}))
	for _, name := range []string{pinned.ID, pinned.ID[:12], strings.Repeat("0", 12), "sha256:" + pinned.ID[:3]} {
		path := filepath.Join(t.TempDir(), "x.tar")
		dockerArchive(t, path, map[string]v1.Image{name: other})
		img, err := s.Import(t.Context(), path, ImportOptions{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, got := range img.Names {
			if IDLike(familiar(got)) {
				t.Errorf("an archive has named its image %s", got)
			}
		}
		if _, err := s.Import(t.Context(), path, ImportOptions{Name: name}, nil); fault.KindOf(err) != fault.Invalid {
			t.Errorf("the name %s, which reads as an id: %v", name, err)
		}
		if _, err := s.Pull(t.Context(), name, PullOptions{}, nil); fault.KindOf(err) != fault.Invalid {
			t.Errorf("pulling %s, which reads as an id: %v", name, err)
		}
	}

	// An older version has accepted such names.
	img, err := s.Get("x")
	if err != nil {
		t.Fatal(err)
	}
	missing := strings.Repeat("0", 64)
	for _, name := range []string{pinned.ID, pinned.ID[:12], missing} {
		full := hubAlias + "/library/" + name + ":latest"
		if err := writeFile(s.names.file(full), img.ID+"\n"); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Get(full); err != nil || got.ID != img.ID {
			t.Errorf("the full form of an old name finds %.12s, %v; want its image", got.ID, err)
		}
		got, err := s.Get(name)
		if name == missing && fault.KindOf(err) != fault.NotFound {
			t.Errorf("the id of no image finds %.12s, %v", got.ID, err)
		}
		if name != missing && got.ID != pinned.ID {
			t.Errorf("Get(%s) = %.12s, %v; want the image with that id", name, got.ID, err)
		}
	}
	if got, err := s.ByID(missing); fault.KindOf(err) != fault.NotFound {
		t.Errorf("ByID of no image finds %.12s, %v", got.ID, err)
	}
	if got, err := s.ByID(pinned.ID); err != nil || got.ID != pinned.ID {
		t.Errorf("ByID finds %.12s, %v; want %.12s", got.ID, err, pinned.ID)
	}
	for _, ref := range []string{"mine", pinned.ID[:12], "", "../" + pinned.ID} {
		if got, err := s.ByID(ref); fault.KindOf(err) != fault.NotFound {
			t.Errorf("ByID(%q) finds %.12s, %v; only a whole id counts", ref, got.ID, err)
		}
	}
}
