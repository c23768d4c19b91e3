package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"banger/internal/fault"
)

// plainTar is a tar as other programs make one: no entry for the directory, names with decoration.
func plainTar(t *testing.T, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range headers {
		body := bytes.Repeat([]byte("x"), int(h.Size))
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestImportThenExport(t *testing.T) {
	ctx := context.Background()
	src := plainTar(t,
		&tar.Header{Typeflag: tar.TypeReg, Name: "/a/b/file", Mode: 0o640, Size: 5},
		&tar.Header{Typeflag: tar.TypeDir, Name: "./a/", Mode: 0o700},
		&tar.Header{Typeflag: tar.TypeLink, Name: "a/hard", Linkname: "a/b/file", Mode: 0o640},
		&tar.Header{Typeflag: tar.TypeSymlink, Name: "soft", Linkname: "../outside", Mode: 0o777},
	)
	var stream bytes.Buffer
	if err := Import(ctx, &stream, bytes.NewReader(src), Limits{}); err != nil {
		t.Fatal(err)
	}
	dst := t.TempDir()
	if err := Unpack(ctx, bytes.NewReader(stream.Bytes()), dst, UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a/b/file", "a/hard"} {
		if got, err := os.ReadFile(filepath.Join(dst, name)); err != nil || string(got) != "xxxxx" {
			t.Errorf("%s is %q, %v after import and unpack", name, got, err)
		}
	}
	if to, err := os.Readlink(filepath.Join(dst, "soft")); err != nil || to != "../outside" {
		t.Errorf("soft: %q, %v", to, err)
	}

	var plain bytes.Buffer
	if err := Export(ctx, &plain, &stream, CleanOptions{}); err != nil {
		t.Fatal(err)
	}
	var names []string
	for tr := tar.NewReader(&plain); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	want := []string{"./", "./a/", "./a/b/", "./a/b/file", "./a/hard", "./soft"}
	if len(names) != len(want) {
		t.Fatalf("got %q, want %q", names, want)
	}
	for i := range want {
		if names[i] != want[i] {
			t.Fatalf("got %q, want %q", names, want)
		}
	}
}

func TestImportRefuses(t *testing.T) {
	for name, h := range map[string]*tar.Header{
		"a way out":         {Typeflag: tar.TypeReg, Name: "a/../../x"},
		"a link's way out":  {Typeflag: tar.TypeLink, Name: "a", Linkname: "../x"},
		"a file at the top": {Typeflag: tar.TypeReg, Name: "."},
	} {
		t.Run(name, func(t *testing.T) {
			err := Import(context.Background(), io.Discard, bytes.NewReader(plainTar(t, h)), Limits{})
			if fault.KindOf(err) != fault.Invalid {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestExportKnowsAnIncompleteStream(t *testing.T) {
	if err := Export(context.Background(), io.Discard, bytes.NewReader(plainTar(t)), CleanOptions{}); err == nil {
		t.Error("a stream without its end mark was taken for complete")
	}
	var stream bytes.Buffer
	packErr := Pack(context.Background(), &stream, filepath.Join(t.TempDir(), "missing"), PackOptions{})
	if packErr == nil {
		t.Fatal("packing nothing succeeded")
	}
	err := Export(context.Background(), io.Discard, &stream, CleanOptions{})
	var f *fault.Error
	if !errors.As(err, &f) {
		t.Errorf("the packer's error did not come through: %v", err)
	}
}
