package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger/internal/disk"
	"banger/internal/model"
	"banger/internal/testkit"
)

// file describes a tar entry.
type file struct {
	name string
	typ  byte // 0 is a regular file
	body string
	link string
	mode int64
	uid  int
	pax  map[string]string
}

var testTime = time.Unix(1_700_000_000, 0)

func makeTar(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{
			Name: f.name, Typeflag: f.typ, Linkname: f.link, Mode: f.mode, Uid: f.uid, Size: int64(len(f.body)), ModTime: testTime,
			PAXRecords: f.pax, Format: tar.FormatPAX,
		}
		if f.typ == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
			if f.typ == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if f.typ == tar.TypeChar || f.typ == tar.TypeBlock {
			h.Devmajor, h.Devminor = 8, 1
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatalf("entry %q: %v", f.name, err)
		}
		if _, err := io.WriteString(w, f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func memLayers(archives ...[]byte) []Layer {
	var layers []Layer
	for _, a := range archives {
		layers = append(layers, Layer{Label: "test", Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(a)), nil
		}})
	}
	return layers
}

// convert merges layers into an ext4 file and returns its path.
func convert(t testing.TB, limits Limits, archives ...[]byte) (string, *Tree, error) {
	t.Helper()
	return convertLayers(t, limits, memLayers(archives...)...)
}

func convertLayers(t testing.TB, limits Limits, layers ...Layer) (string, *Tree, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rootfs.ext4")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c := &Conversion{Limits: limits.WithDefaults(), Out: out, Whiteouts: true}
	tr, err := c.Layers(t.Context(), layers)
	return path, tr, err
}

func fsck(t testing.TB, path string) {
	t.Helper()
	tool := requireTool(t, "e2fsck")
	if out, err := exec.Command(tool, "-fn", path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

func requireTool(t testing.TB, name string) string {
	t.Helper()
	path, err := disk.Tool(name, "e2fsprogs")
	testkit.Require(t, name, err == nil, "not on this machine")
	return path
}

func debugfs(t testing.TB, path, command string) string {
	t.Helper()
	out, err := exec.Command(requireTool(t, "debugfs"), "-R", command, path).Output()
	if err != nil {
		t.Fatalf("debugfs %s: %v", command, err)
	}
	return string(out)
}

// list returns the names in a directory of an ext4 file, without those that every image has.
func list(t testing.TB, path, dir string) []string {
	t.Helper()
	usual := []string{"", ".", "..", "lost+found"}
	for _, m := range mountPoints {
		usual = append(usual, m.name)
	}
	var names []string
	for line := range strings.Lines(debugfs(t, path, "ls -p "+dir)) {
		if fields := strings.Split(line, "/"); len(fields) > 5 && !slices.Contains(usual, fields[5]) {
			names = append(names, fields[5])
		}
	}
	slices.Sort(names)
	return names
}

func cat(t testing.TB, path, name string) string {
	t.Helper()
	return debugfs(t, path, "cat "+name)
}

func stat(t testing.TB, path, name string) string {
	t.Helper()
	return debugfs(t, path, "stat "+name)
}

func sha(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func usage(path string) (apparent, allocated model.Bytes, err error) { return disk.Usage(path) }

var rootFiles = []file{
	{name: "./", typ: tar.TypeDir}, {name: "etc/os-release", body: "test"}, {name: "etc/inittab", body: "x"},
	{name: "sbin/init", body: "x", mode: 0o755},
}
