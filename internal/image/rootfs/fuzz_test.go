package rootfs

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

// fuzzLimits keep each input small.
var fuzzLimits = Limits{Size: 4 * model.MiB, Entries: 1000, Layers: 4}.WithDefaults()

// FuzzLayers merges two layers, the second with whiteouts. The result must be a sound file system
// or an error.
func FuzzLayers(f *testing.F) {
	seed := func(a, b []file) { f.Add(makeTar(f, a...), makeTar(f, b...)) }
	seed(rootFiles, []file{{name: "etc/.wh.inittab"}, {name: "sbin/.wh..wh..opq"}})
	seed([]file{{name: "a/b/c", body: "x"}, {name: "l", typ: tar.TypeLink, link: "a/b/c"}}, []file{{name: "a", typ: tar.TypeSymlink, link: "../.."}, {name: "a/x"}})
	seed([]file{{name: "../../x", body: "x"}, {name: "d", typ: tar.TypeChar}}, []file{{name: "l", typ: tar.TypeLink, link: "m"}, {name: "m", typ: tar.TypeLink, link: "l"}})
	seed([]file{{name: "s", typ: tar.TypeSymlink, link: "s"}}, []file{{name: "s/x"}, {name: "./", typ: tar.TypeDir}})
	seed([]file{{name: "x", body: "x", pax: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("v", 2000), "SCHILY.xattr.security.b": strings.Repeat("v", 1000)}}}, nil)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, a, b []byte) {
		out, err := os.Create(filepath.Join(dir, "rootfs.ext4"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		c := &Conversion{Limits: fuzzLimits, Out: out, Whiteouts: true}
		tr, err := c.Layers(t.Context(), memLayers(a, b))
		checkOutcome(t, err, out.Name())
		if err == nil {
			tr.Init()
		}
	})
}

// FuzzStream converts one archive in one pass.
func FuzzStream(f *testing.F) {
	f.Add(makeTar(f, rootFiles...))
	f.Add(makeTar(f, file{name: "l", typ: tar.TypeLink, link: "x"}, file{name: "x", body: "x"}, file{name: "lost+found/x"}))
	f.Add(makeTar(f, file{name: "lost+found", typ: tar.TypeSymlink, link: "/"}, file{name: "lost+found/x"}, file{name: "proc"}))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, a []byte) {
		out, err := os.Create(filepath.Join(dir, "rootfs.ext4"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		c := &Conversion{Limits: fuzzLimits, Out: out}
		_, _, err = c.Stream(t.Context(), io.NopCloser(bytes.NewReader(a)))
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
