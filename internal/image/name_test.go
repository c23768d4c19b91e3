package image

import (
	"path/filepath"
	"slices"
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
	for _, name := range []string{pinned.ID, pinned.ID[:12], pinned.ID[:8], strings.Repeat("0", 12), strings.Repeat("0", 8), "sha256:" + pinned.ID[:3]} {
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
	old := strings.Repeat("0", 8)
	if err := writeFile(s.names.file(hubAlias+"/library/"+old+":latest"), img.ID+"\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(old); err != nil || got.ID != img.ID {
		t.Errorf("an old name that no id begins with finds %.12s, %v; want its image", got.ID, err)
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

// TestArchiveNamesReplaceNothing claims that a name in a file takes nothing from another image, and
// is none of banger's own names.
func TestArchiveNamesReplaceNothing(t *testing.T) {
	s := newStore(t, Options{})
	mine := importFile(t, s, "mine", "team/app:1")
	other := makeImage(t, tarLayer(t, file{name: "etc/os-release", body: "other"}))
	for i, name := range []string{"team/app:1", "debian:bookworm", "debian:sid"} {
		path := filepath.Join(t.TempDir(), "x.tar")
		dockerArchive(t, path, map[string]v1.Image{name: other})
		img, err := s.Import(t.Context(), path, ImportOptions{}, nil)
		if err != nil {
			t.Fatalf("an archive with the name %s: %v", name, err)
		}
		if len(img.Names) != 0 || img.ID == mine.ID {
			t.Errorf("an archive with the name %s: image %.12s with the names %v; want another image without a name", name, img.ID, img.Names)
		}
		if len(img.Notices) != 1 || !strings.Contains(img.Notices[0].Text, name) || !strings.Contains(img.Notices[0].Hint, "banger image tag "+short(img.ID)+" "+name) {
			t.Errorf("an archive with the name %s: the notices are %+v; want one with the way out", name, img.Notices)
		}
		if got, err := s.Get(name); i == 0 && got.ID != mine.ID || i > 0 && fault.KindOf(err) != fault.NotFound {
			t.Errorf("after the import, %s names %.12s, %v", name, got.ID, err)
		}
		if _, err := s.Delete(img.ID, nobody); err != nil {
			t.Fatal(err)
		}
	}
	path := write(t, filepath.Join(t.TempDir(), "app.tar"), makeTar(t, file{name: "f", body: "file"}))
	importFile(t, s, "first", "app")
	if img, err := s.Import(t.Context(), path, ImportOptions{}, nil); err != nil || len(img.Names) != 0 || len(img.Notices) != 1 {
		t.Errorf("a file whose name is an image's: %v %+v, %v; want no name and a notice", img.Names, img.Notices, err)
	}
}

// TestArchiveClaimsNoDebian claims that no spelling of Debian's name in a file names its image.
func TestArchiveClaimsNoDebian(t *testing.T) {
	s := newStore(t, Options{})
	other := makeImage(t, tarLayer(t, file{name: "etc/os-release", body: "other"}))
	for _, name := range []string{
		"debian:bookworm", "debian", "debian:latest", "library/debian:bookworm", "docker.io/debian:bookworm", "docker.io/library/debian:sid",
		"index.docker.io/library/debian:bookworm", "index.docker.io/debian",
	} {
		path := filepath.Join(t.TempDir(), "x.tar")
		dockerArchive(t, path, map[string]v1.Image{name: other})
		img, err := s.Import(t.Context(), path, ImportOptions{}, nil)
		if err != nil {
			t.Fatalf("an archive with the name %s: %v", name, err)
		}
		for _, got := range img.Names {
			if strings.Contains(got, "debian") {
				t.Errorf("an archive with the name %s has named its image %s", name, got)
			}
		}
		if len(img.Notices) == 0 {
			t.Errorf("an archive with the name %s: no notice says that the name is refused", name)
		}
		if _, err := s.Delete(img.ID, nobody); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFileNamesReported claims that each name in a file that the image does not get is reported.
func TestFileNamesReported(t *testing.T) {
	c := (&importer{}).claim("Team/app", "deadbeef", "team/app:1", "team/app:2", "docker.io/team/app:1", "")
	take, notices := c.judge(map[string]string{}, strings.Repeat("0", 64))
	if !take || c.name != hubAlias+"/team/app:1" {
		t.Errorf("the claim is %+v, %v; want the first good name", c, take)
	}
	var text []string
	for _, n := range notices {
		text = append(text, n.Text)
	}
	all := strings.Join(text, "\n")
	if len(notices) != 3 {
		t.Errorf("the notices are %q; want one for each of 3 names", all)
	}
	for _, name := range []string{"Team/app", "deadbeef", "team/app:2"} {
		if !strings.Contains(all, name) {
			t.Errorf("the notices %q do not name %s", all, name)
		}
	}
	_, idLike := parseTag("deadbeef")
	if !strings.Contains(all, idLike.Error()) {
		t.Errorf("the notices %q do not say why a name like an id is refused: %v", all, idLike)
	}
	for _, n := range notices[:2] {
		if !strings.Contains(n.Hint, "banger image tag 000000") {
			t.Errorf("the notice %q has the hint %q; want the command that names the image", n.Text, n.Hint)
		}
	}
	if take, notices := (&importer{}).claim("DOCKER.IO/library/debian:bookworm").judge(nil, "0"); take || len(notices) != 1 {
		t.Errorf("Debian's name in upper case is taken: %v, %+v", take, notices)
	}
	c = (&importer{}).claim(slices.Repeat([]string{"BAD"}, 1000)...)
	if _, notices := c.judge(nil, "0"); len(notices) != maxRefused+1 {
		t.Errorf("1000 refused names make %d notices", len(notices))
	}
}

// TestNameMoves claims that a name that a person gives moves, that banger says so, and that it can
// be moved back.
func TestNameMoves(t *testing.T) {
	s := newStore(t, Options{})
	first := importFile(t, s, "1", DefaultName)
	second := importFile(t, s, "2", DefaultName)
	if len(first.Notices) != 0 {
		t.Errorf("a free name has the notices %+v", first.Notices)
	}
	if len(second.Notices) != 1 || !strings.Contains(second.Notices[0].Text, short(second.ID)) || !strings.Contains(second.Notices[0].Text, short(first.ID)) {
		t.Errorf("a moved name has the notices %+v; want one with both ids", second.Notices)
	}
	if got, err := s.Get(DefaultName); err != nil || got.ID != second.ID {
		t.Errorf("%s names %.12s, %v; want the image that got the name", DefaultName, got.ID, err)
	}
	back, err := s.Tag(t.Context(), first.ID, DefaultName)
	if err != nil || back.ID != first.ID || len(back.Notices) != 1 {
		t.Fatalf("moving the name back: %.12s %+v, %v", back.ID, back.Notices, err)
	}
	if got, err := s.Get(DefaultName); err != nil || got.ID != first.ID || len(got.Notices) != 0 {
		t.Errorf("%s names %.12s with the notices %+v, %v; want the first image", DefaultName, got.ID, got.Notices, err)
	}
	if again, err := s.Tag(t.Context(), first.ID, DefaultName); err != nil || len(again.Notices) != 0 {
		t.Errorf("giving an image the name that it has: %+v, %v", again.Notices, err)
	}
	for name, kind := range map[string]fault.Kind{
		"No Name": fault.Invalid, second.ID: fault.Invalid, "app@sha256:" + second.ID: fault.Invalid, "": fault.Invalid,
	} {
		if _, err := s.Tag(t.Context(), first.ID, name); fault.KindOf(err) != kind {
			t.Errorf("the name %q: %v", name, err)
		}
	}
	if _, err := s.Tag(t.Context(), "none", "x"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("naming an image that is not there: %v", err)
	}
}

func TestFamiliar(t *testing.T) {
	for full, want := range map[string]string{
		"docker.io/library/alpine:latest":   "alpine",
		"docker.io/library/alpine:3":        "alpine:3",
		"docker.io/team/app:1":              "team/app:1",
		"registry.example/app:latest":       "registry.example/app",
		"debian:bookworm":                   "debian:bookworm",
		"docker.io/library/debian:bookworm": "docker.io/library/debian:bookworm",
	} {
		if got := familiar(full); got != want {
			t.Errorf("familiar(%q) = %q; want %q", full, got, want)
		}
		if ref, err := Parse(familiar(full)); err != nil || ref.Name != full {
			t.Errorf("the short form of %s means %s, %v", full, ref.Name, err)
		}
	}
}
