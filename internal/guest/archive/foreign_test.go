package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/guest/archive"
	"banger/internal/testkit"
)

// TestForeignTar: a tar of tar(1) arrives complete, and tar(1) unpacks an exported one silently.
func TestForeignTar(t *testing.T) {
	testkit.RequireTool(t, "tar")
	ctx := context.Background()
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	sample(t, src)
	packed, err := exec.Command("tar", "-c", "--format=posix", "-C", src, ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer
	if err := archive.Import(ctx, &stream, bytes.NewReader(packed), archive.Limits{}); err != nil {
		t.Fatal(err)
	}
	in := filepath.Join(dir, "in")
	if err := archive.Unpack(ctx, bytes.NewReader(stream.Bytes()), in, archive.UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(filepath.Join(in, "sealed"), 0o700) })
	os.Chmod(in, 0o755) // the top is the destination's
	info, _ := os.Stat(src)
	os.Chtimes(in, info.ModTime(), info.ModTime())
	if got, want := describe(t, in), describe(t, src); got != want {
		t.Errorf("in: got\n%s\nwant\n%s", got, want)
	}

	var plain bytes.Buffer
	stream.Reset()
	if err := archive.Pack(ctx, &stream, src+"/.", archive.PackOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := archive.Export(ctx, &plain, &stream, archive.CleanOptions{}); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	os.Mkdir(out, 0o755)
	cmd := exec.Command("tar", "-x", "-p", "-C", out)
	cmd.Stdin = &plain
	if text, err := cmd.CombinedOutput(); err != nil || len(text) != 0 {
		t.Fatalf("tar prints a remark about an exported stream: %v: %s", err, text)
	}
	t.Cleanup(func() { os.Chmod(filepath.Join(out, "sealed"), 0o700) })
	os.Chtimes(out, info.ModTime(), info.ModTime())
	if got, want := describe(t, out), describe(t, src); got != want {
		t.Errorf("out: got\n%s\nwant\n%s", got, want)
	}
}

// foreign writes a tar as another program does, without a record of its end.
func foreign(t *testing.T, entries ...header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&tar.Header{Typeflag: e.kind, Name: e.name, Linkname: e.target, Size: int64(len(e.data)), Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(e.data))
	}
	w.Close()
	return b.Bytes()
}

func TestImport(t *testing.T) {
	ctx := context.Background()
	for _, tt := range []struct {
		name    string
		entries []header
		want    string // path and content, or "" for refused
	}{
		{"unmentioned directories", []header{{file, "a/b/c", "", "x"}, {file, "a/b/d", "", "y"}}, "a/b/d=y"},
		{"absolute", []header{{file, "/a/b", "", "x"}}, "a/b=x"},
		{"dots and slashes", []header{{directory, "././a//", "", ""}, {file, "./a//./b", "", "x"}}, "a/b=x"},
		{"hard link", []header{{file, "a", "", "x"}, {link, "/d/b", "./a", ""}}, "d/b=x"},
		{"device left out", []header{{tar.TypeChar, "null", "", ""}, {file, "a", "", "x"}}, "a=x"},
		{"dot dot", []header{{file, "a/../../b", "", "x"}}, ""},
		{"hard link out", []header{{link, "a", "../b", ""}}, ""},
		{"through a link", []header{{symlink, "l", "/tmp", ""}, {file, "l/x", "", "x"}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stream bytes.Buffer
			dst := t.TempDir()
			err := archive.Import(ctx, &stream, bytes.NewReader(foreign(t, tt.entries...)), archive.Limits{})
			unpackErr := archive.Unpack(ctx, &stream, dst, archive.UnpackOptions{})
			if tt.want == "" {
				if unpackErr == nil {
					t.Error("it was unpacked")
				}
				return
			}
			if err != nil || unpackErr != nil {
				t.Fatal(err, unpackErr)
			}
			name, data, _ := strings.Cut(tt.want, "=")
			if got, err := os.ReadFile(filepath.Join(dst, name)); string(got) != data {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestConvertBroken(t *testing.T) {
	ctx := context.Background()
	whole := foreign(t, header{file, "t", "", strings.Repeat("x", 2000)})
	var out bytes.Buffer
	if err := archive.Export(ctx, &out, bytes.NewReader(whole), archive.CleanOptions{}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("exporting a stream without its end: %v", err)
	}
	if err := archive.Import(ctx, &out, bytes.NewReader(whole[:1000]), archive.Limits{}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("importing half a tar: %v", err)
	}
	if err := archive.Import(ctx, &out, strings.NewReader("no tar at all, and yet it is long enough for a header"+strings.Repeat(".", 1000)), archive.Limits{}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("importing something else: %v", err)
	}
	if err := archive.Import(ctx, &out, bytes.NewReader(whole), archive.Limits{MaxBytes: 1000}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("importing too much: %v", err)
	}
}
