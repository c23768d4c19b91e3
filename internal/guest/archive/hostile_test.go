package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/guest/archive"
)

const (
	file      = tar.TypeReg
	directory = tar.TypeDir
	symlink   = tar.TypeSymlink
	link      = tar.TypeLink
)

// hostile lists archives that must be refused.
var hostile = []struct {
	name    string
	entries []header
}{
	{"dot dot", []header{{directory, "t/", "", ""}, {file, "t/../x", "", "x"}}},
	{"dot dot first", []header{{file, "..", "", "x"}}},
	{"dot dot directory first", []header{{directory, "../", "", ""}}},
	{"absolute", []header{{directory, "t/", "", ""}, {file, "/tmp/banger-absolute", "", "x"}}},
	{"absolute first", []header{{file, "/x", "", "x"}}},
	{"another tree", []header{{directory, "t/", "", ""}, {file, "u", "", "x"}}},
	{"deep first", []header{{file, "t/a/b", "", "x"}}},
	{"empty component", []header{{directory, "t/", "", ""}, {file, "t//x", "", "x"}}},
	{"inner dot", []header{{directory, "t/", "", ""}, {file, "t/./x", "", "x"}}},
	{"through a link", []header{{directory, "t/", "", ""}, {symlink, "t/l", "../..", ""}, {file, "t/l/x", "", "x"}}},
	{"through a link to the neighbour", []header{{directory, "t/", "", ""}, {symlink, "t/l", "../neighbour", ""}, {file, "t/l/x", "", "x"}}},
	{"through a link inside", []header{{directory, "t/", "", ""}, {directory, "t/d/", "", ""}, {symlink, "t/l", "d", ""}, {file, "t/l/x", "", "x"}}},
	{"directory over a link", []header{{directory, "t/", "", ""}, {symlink, "t/l", "../neighbour", ""}, {directory, "t/l/", "", ""}}},
	{"through a link that was there", []header{{directory, "t/", "", ""}, {file, "t/there/x", "", "x"}}},
	{"directory over a link that was there", []header{{directory, "t/", "", ""}, {directory, "t/there/", "", ""}}},
	{"over a pipe that was there", []header{{directory, "t/", "", ""}, {file, "t/fifo", "", "x"}}},
	{"over a socket that was there", []header{{directory, "t/", "", ""}, {symlink, "t/socket", "/etc/passwd", ""}}},
	{"hard link over a pipe that was there", []header{{directory, "t/", "", ""}, {file, "t/f", "", "x"}, {link, "t/fifo", "t/f", ""}}},
	{"directory over a pipe that was there", []header{{directory, "t/", "", ""}, {directory, "t/fifo/", "", ""}}},
	{"through a pipe that was there", []header{{directory, "t/", "", ""}, {file, "t/fifo/x", "", "x"}}},
	{"hard link out", []header{{directory, "t/", "", ""}, {link, "t/x", "../neighbour/precious", ""}}},
	{"hard link to another tree", []header{{directory, "t/", "", ""}, {link, "t/x", "neighbour/precious", ""}}},
	{"absolute hard link", []header{{directory, "t/", "", ""}, {link, "t/x", "/etc/passwd", ""}}},
	{"hard link through a link", []header{{directory, "t/", "", ""}, {symlink, "t/l", "../neighbour", ""}, {link, "t/x", "t/l/precious", ""}}},
	{"hard link to a link", []header{{directory, "t/", "", ""}, {symlink, "t/l", "../neighbour/precious", ""}, {link, "t/x", "t/l", ""}}},
	{"hard link to nothing", []header{{directory, "t/", "", ""}, {link, "t/x", "t/y", ""}}},
	{"hard link to a directory", []header{{directory, "t/", "", ""}, {directory, "t/d", "", ""}, {link, "t/x", "t/d", ""}}},
	{"device", []header{{directory, "t/", "", ""}, {tar.TypeChar, "t/null", "", ""}}},
	{"pipe", []header{{directory, "t/", "", ""}, {tar.TypeFifo, "t/p", "", ""}}},
	{"file that holds something", []header{{directory, "t/", "", ""}, {file, "t/f", "", "x"}, {file, "t/f/x", "", "x"}}},
	{"file and then a directory", []header{{directory, "t/", "", ""}, {file, "t/f", "", "x"}, {directory, "t/f/", "", ""}}},
	{"directory and then a file", []header{{directory, "t/", "", ""}, {directory, "t/f/", "", ""}, {file, "t/f", "", "x"}}},
	{"missing directory", []header{{directory, "t/", "", ""}, {file, "t/d/x", "", "x"}}},
	{"long component", []header{{directory, "t/", "", ""}, {file, "t/" + strings.Repeat("x", 300), "", "x"}}},
	{"long name", []header{{directory, "t/", "", ""}, {file, "t/" + strings.Repeat("x/", 2500) + "x", "", "x"}}},
	{"deep name", []header{{directory, "t/", "", ""}, {file, "t" + strings.Repeat("/x", 300), "", "x"}}},
	{"long link", []header{{directory, "t/", "", ""}, {symlink, "t/l", strings.Repeat("x", 5000), ""}}},
	{"two roots", []header{{file, "f", "", "x"}, {file, "f", "", "y"}}},
	{"two files at the top", []header{{file, "t", "", "x"}, {file, "t/x", "", "x"}}},
	{"contents that are a file", []header{{file, ".", "", "x"}}},
	{"contents that become a link", []header{{directory, "./", "", ""}, {symlink, ".", "/etc", ""}}},
	{"nothing", nil},
}

// arena makes a destination with neighbours, a pipe and the like. The function reports whether
// those are unchanged.
func arena(t testing.TB) (dst string, intact func() bool) {
	t.Helper()
	base := t.TempDir()
	dst = filepath.Join(base, "dst")
	for _, d := range []string{dst, filepath.Join(dst, "t"), filepath.Join(dst, "neighbour"), filepath.Join(base, "neighbour")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	precious := []string{filepath.Join(base, "neighbour", "precious"), filepath.Join(dst, "neighbour", "precious")}
	for _, p := range precious {
		os.WriteFile(p, []byte("precious"), 0o600)
	}
	os.Symlink("../neighbour", filepath.Join(dst, "t", "there"))
	changed := special(t, filepath.Join(dst, "t"))
	return dst, func() bool {
		if len(changed()) != 0 {
			return false
		}
		for _, p := range precious {
			info, err := os.Lstat(p)
			if err != nil || info.Mode() != 0o600 || info.Size() != 8 {
				return false
			}
			if st, _ := os.ReadDir(filepath.Dir(p)); len(st) != 1 {
				return false
			}
		}
		around, _ := os.ReadDir(base)
		return len(around) == 2
	}
}

func TestHostile(t *testing.T) {
	for _, tt := range hostile {
		t.Run(tt.name, func(t *testing.T) {
			dst, intact := arena(t)
			err := archive.Unpack(context.Background(), bytes.NewReader(stream(t, tt.entries...)), dst, archive.UnpackOptions{})
			if err == nil {
				t.Error("it was unpacked")
			}
			if kind := fault.KindOf(err); kind == fault.Internal && !strings.Contains(err.Error(), "too long") {
				t.Errorf("a hostile archive returned %v: %v, want an error of the archive's", kind, err)
			}
			if !intact() {
				t.Error("something else was touched")
			}
			if _, err := os.Lstat("/tmp/banger-absolute"); err == nil {
				t.Error("an absolute name was made")
			}
		})
	}
}

// TestImposter: the stream does not choose the name of its result.
func TestImposter(t *testing.T) {
	dst, intact := arena(t)
	data := stream(t, header{file, ".bashrc", "", "x"})
	if err := archive.Unpack(context.Background(), bytes.NewReader(data), dst, archive.UnpackOptions{Source: "/out/result"}); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(filepath.Join(dst, "result")); string(got) != "x" {
		t.Errorf("got %q", got)
	}
	if _, err := os.Lstat(filepath.Join(dst, ".bashrc")); err == nil {
		t.Error("it landed under its own name")
	}
	for _, tt := range []struct{ root, source string }{{"./", "/out/result"}, {"t/", "/out/."}} {
		data := stream(t, header{directory, tt.root, "", ""}, header{file, tt.root + "x", "", "x"})
		if err := archive.Unpack(context.Background(), bytes.NewReader(data), dst, archive.UnpackOptions{Source: tt.source}); err == nil {
			t.Errorf("%s for %s was unpacked", tt.root, tt.source)
		}
	}
	if !intact() {
		t.Error("something else was touched")
	}
}

// TestMasked: special bits are removed on the host.
func TestMasked(t *testing.T) {
	dst, _ := arena(t)
	data := stream(t, header{directory, "new/", "", ""}, header{file, "new/f", "", "x"})
	if err := archive.Unpack(context.Background(), bytes.NewReader(data), dst, archive.UnpackOptions{Umask: 0o022}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"new": fs.ModeDir | 0o755, "new/f": 0o755} {
		if info, _ := os.Lstat(filepath.Join(dst, name)); info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
		}
	}
}

// TestSparse: a few bytes do not expand to petabytes.
func TestSparse(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Typeflag: file, Name: "f", Format: tar.FormatGNU, Mode: 0o644})
	w.Close()
	raw := b.Bytes()
	raw[156] = tar.TypeGNUSparse
	copy(raw[483:], "77777777777\x00") // real size, GNU tar's oldgnu_header
	sum := 0
	copy(raw[148:156], "        ")
	for _, c := range raw[:512] {
		sum += int(c)
	}
	copy(raw[148:], []byte{byte('0' + sum>>15&7), byte('0' + sum>>12&7), byte('0' + sum>>9&7), byte('0' + sum>>6&7), byte('0' + sum>>3&7), byte('0' + sum&7), 0, ' '})
	if err := archive.Unpack(context.Background(), bytes.NewReader(raw), t.TempDir(), archive.UnpackOptions{}); fault.KindOf(err) != fault.Invalid {
		t.Error(err)
	}
}

func FuzzUnpack(f *testing.F) {
	for _, tt := range hostile {
		f.Add(stream(f, tt.entries...))
	}
	src := filepath.Join(f.TempDir(), "src")
	sample(f, src)
	os.Remove(filepath.Join(src, "big")) // the fuzzer crawls with large seeds
	var whole bytes.Buffer
	archive.Pack(context.Background(), &whole, src, archive.PackOptions{Owner: true})
	f.Add(whole.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		dst, intact := arena(t)
		t.Cleanup(func() { // directories that their owner may not enter cannot be removed either
			filepath.WalkDir(dst, func(path string, d fs.DirEntry, err error) error {
				if d != nil && d.IsDir() {
					os.Chmod(path, 0o700)
				}
				return nil
			})
		})
		archive.Unpack(context.Background(), bytes.NewReader(data), dst, archive.UnpackOptions{
			Limits: archive.Limits{MaxEntries: 200, MaxBytes: 1 << 20},
		})
		if !intact() {
			t.Error("something else was touched")
		}
	})
}
