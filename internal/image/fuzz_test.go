package image

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

// fuzzLimits keep each input small.
var fuzzLimits = Limits{Size: 4 * model.MiB, Entries: 1000, Layers: 4}.withDefaults()

// FuzzLayers merges two layers, the second with whiteouts. The result must be a sound file system
// or an error.
func FuzzLayers(f *testing.F) {
	seed := func(a, b []file) { f.Add(makeTar(f, a...), makeTar(f, b...)) }
	seed(rootfs, []file{{name: "etc/.wh.inittab"}, {name: "sbin/.wh..wh..opq"}})
	seed([]file{{name: "a/b/c", body: "x"}, {name: "l", typ: tar.TypeLink, link: "a/b/c"}}, []file{{name: "a", typ: tar.TypeSymlink, link: "../.."}, {name: "a/x"}})
	seed([]file{{name: "../../x", body: "x"}, {name: "d", typ: tar.TypeChar}}, []file{{name: "l", typ: tar.TypeLink, link: "m"}, {name: "m", typ: tar.TypeLink, link: "l"}})
	seed([]file{{name: "s", typ: tar.TypeSymlink, link: "s"}}, []file{{name: "s/x"}, {name: "./", typ: tar.TypeDir}})
	seed([]file{{name: "x", body: "x", pax: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("v", 2000), "SCHILY.xattr.security.b": strings.Repeat("v", 1000)}}}, nil)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, a, b []byte) {
		out, err := os.Create(filepath.Join(dir, rootfsFile))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		c := &conversion{limits: fuzzLimits, out: out, whiteouts: true}
		tr, err := c.layers(t.Context(), memLayers(a, b))
		checkOutcome(t, err, out.Name())
		if err == nil {
			tr.init()
		}
	})
}

// FuzzStream converts one archive in one pass.
func FuzzStream(f *testing.F) {
	f.Add(makeTar(f, rootfs...))
	f.Add(makeTar(f, file{name: "l", typ: tar.TypeLink, link: "x"}, file{name: "x", body: "x"}, file{name: "lost+found/x"}))
	f.Add(makeTar(f, file{name: "lost+found", typ: tar.TypeSymlink, link: "/"}, file{name: "lost+found/x"}, file{name: "proc"}))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, a []byte) {
		out, err := os.Create(filepath.Join(dir, rootfsFile))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		c := &conversion{limits: fuzzLimits, out: out}
		_, _, err = c.stream(t.Context(), io.NopCloser(bytes.NewReader(a)))
		if err != errNotStreamable {
			checkOutcome(t, err, out.Name())
		}
	})
}

// checkOutcome accepts a sound file system, or an error that blames the input.
func checkOutcome(t *testing.T, err error, path string) {
	t.Helper()
	switch kind := fault.KindOf(err); {
	case err == nil:
		if os.Getenv("BANGER_FUZZ_FSCK") != "" { // 20 ms each
			fsck(t, path)
		}
	case kind != fault.Invalid && kind != fault.Unsupported:
		t.Errorf("got %v of kind %q, want an error that blames the input", err, kind)
	}
}

// FuzzImport gives files to every reader of archives.
func FuzzImport(f *testing.F) {
	f.Add(makeTar(f, rootfs...))
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
	s := &Store{dir: "/images"}
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := Parse(text)
		if err != nil {
			return
		}
		if again, err := Parse(ref.Name); err != nil || again.Name != ref.Name {
			t.Errorf("%q is %q, which is %q, %v", text, ref.Name, again.Name, err)
		}
		if dir := filepath.Dir(s.nameFile(ref.Name)); dir != "/images/names" || len(filepath.Base(s.nameFile(ref.Name))) > maxName {
			t.Errorf("the name %q is stored outside its directory, at %s", text, s.nameFile(ref.Name))
		}
	})
}
