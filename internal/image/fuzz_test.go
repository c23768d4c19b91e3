package image

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/model"
)

// fuzzLimits keep each input small.
var fuzzLimits = Limits{Size: 4 * model.MiB, Entries: 1000, Layers: 4}.WithDefaults()

// FuzzImport gives files to every reader of archives.
func FuzzImport(f *testing.F) {
	f.Add(makeTar(f, rootFiles...))
	f.Add(makeTar(f, file{name: "manifest.json", body: `[{"Config":"c","RepoTags":["a:1"],"Layers":["l"]}]`}, file{name: "c", body: `{"rootfs":{"diff_ids":["sha256:x"]}}`}, file{name: "l", typ: tar.TypeSymlink, link: "c"}))
	f.Add(makeTar(f, file{name: "oci-layout", body: "{}"}, file{name: "index.json", body: `{"manifests":[{"digest":"sha256:` + strings.Repeat("0", 64) + `"}]}`}))
	f.Add(ext4Head(func([]byte) {}))
	f.Add([]byte{0x1f, 0x8b, 8, 0})
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0})
	s := newStore(f, Options{Limits: fuzzLimits})
	path := filepath.Join(f.TempDir(), "x")
	f.Fuzz(func(t *testing.T, data []byte) {
		if bytes.HasPrefix(data, []byte{0xfd, '7', 'z'}) {
			return // it starts a program each time
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s.Import(context.Background(), path, ImportOptions{Name: "fuzz"}, nil)
		nothingLeft(t, s)
		if _, err := s.Prune(nobody, true); err != nil {
			t.Error(err)
		}
	})
}

// FuzzParse checks that the parts of a name stay in its directory, and that the full name parses to
// itself.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"debian:bookworm", "alpine", "../x", "a/../../b", "localhost:5000/x@sha256:0", "\x00", "A"} {
		f.Add(seed)
	}
	s := &Store{names: "/images/names"}
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := Parse(text)
		if err != nil {
			return
		}
		if again, err := Parse(ref.Name); err != nil || again.Name != ref.Name {
			t.Errorf("%q is %q, which is %q, %v", text, ref.Name, again.Name, err)
		}
		if dir := filepath.Dir(s.names.file(ref.Name)); dir != "/images/names" || len(filepath.Base(s.names.file(ref.Name))) > unix.NAME_MAX {
			t.Errorf("the name %q is stored outside its directory, at %s", text, s.names.file(ref.Name))
		}
	})
}
