package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/disk"
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

func newStore(t testing.TB, opts Options) *Store {
	t.Helper()
	dir := t.TempDir()
	return openStore(t, dir, opts)
}

func openStore(t testing.TB, dir string, opts Options) *Store {
	t.Helper()
	s, err := Open(filepath.Join(dir, "images"), filepath.Join(dir, "blobs"), slog.New(slog.DiscardHandler), opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// nothingLeft checks that a cache has no unfinished work.
func nothingLeft(t testing.TB, s *Store) {
	t.Helper()
	for _, root := range []string{s.dir, s.blobs} {
		left, err := os.ReadDir(filepath.Join(root, tempDir))
		if err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", root, left, err)
		}
	}
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

func look(t *testing.T, path, name string) string {
	t.Helper()
	st := stat(t, path, name)
	switch {
	case st == "":
		return "(none)"
	case strings.Contains(st, "Type: symlink"):
		_, target, _ := strings.Cut(st, `Fast link dest: "`)
		return "-> " + strings.TrimSuffix(strings.TrimSpace(target), `"`)
	}
	return cat(t, path, name)
}
