package server

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/step"
)

// importer is an image store that does what a test says with what it gets.
type importer struct {
	images
	do func(path string, req api.ImageImport, report step.Reporter) error
}

func (i importer) Import(_ context.Context, path string, req api.ImageImport, report step.Reporter) (model.Image, error) {
	return model.Image{ID: "made"}, i.do(path, req, report)
}

// importing makes the server's images an importer.
func importing(do func(path string, req api.ImageImport, report step.Reporter) error) func(*Config) {
	return func(cfg *Config) { cfg.Images = importer{do: do} }
}

// uploads lists what is below the directory of uploads.
func uploads(t *testing.T, l paths.Layout) []string {
	t.Helper()
	found, err := filepath.Glob(l.Imports() + "/*")
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestImportImage(t *testing.T) {
	t.Parallel()
	sent := append(bytes.Repeat([]byte("data"), 100_000), make([]byte, 4<<20)...)
	sent = append(sent, "end"...)
	var got []byte
	var disk int64
	var asked api.ImageImport
	w := serve(t, importing(func(path string, req api.ImageImport, report step.Reporter) error {
		var err error
		got, err = os.ReadFile(path)
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil {
			return err
		}
		disk, asked = st.Blocks*512, req
		report.Report(step.Event{Step: "convert", Phase: step.Started})
		return err
	}))
	want := api.ImageImport{Name: "mine", File: "/a b/ü.tar", Directory: true}
	var steps []string
	image, err := w.client.Images().Import(deadline(t), bytes.NewReader(sent), want, func(e step.Event) { steps = append(steps, e.Step) })
	if err != nil || image.ID != "made" {
		t.Fatalf("the import returned %+v, %v", image, err)
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("%d bytes of %d arrived, or others", len(got), len(sent))
	}
	if disk >= int64(len(sent)) {
		t.Errorf("the upload took %d bytes on the disk, and holds %d with its zeros", disk, len(sent))
	}
	if asked != want {
		t.Errorf("the store was asked %+v, want %+v", asked, want)
	}
	if !slices.Equal(steps, []string{"convert"}) {
		t.Errorf("the client was told of the steps %q", steps)
	}
	if left := uploads(t, w.Layout); len(left) > 0 {
		t.Errorf("uploads are left over: %q", left)
	}
}

// TestImportSparse sends a file without its holes.
func TestImportSparse(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 8 << 30
	if _, err := f.WriteAt([]byte("data"), size-4); err != nil {
		t.Fatal(err)
	}
	var got string
	w := serve(t, importing(func(path string, _ api.ImageImport, _ step.Reporter) error {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		data, err := io.ReadAll(io.NewSectionReader(file, size-8, 100))
		got = string(data)
		return err
	}))
	if _, err := w.client.Images().Import(deadline(t), api.PackSparse(f, size), api.ImageImport{Sparse: true}, nil); err != nil {
		t.Fatal(err)
	}
	if got != "\x00\x00\x00\x00data" {
		t.Errorf("the end of the file is %q", got)
	}
	_, err = w.client.Images().Import(deadline(t), strings.NewReader("not sparse"), api.ImageImport{Sparse: true}, nil)
	if fault.KindOf(err) != fault.Invalid {
		t.Errorf("content in another form: %v (%s)", err, fault.KindOf(err))
	}
}

// TestImportFails has each part of an import fail. Nothing is left, and nothing cut off is
// imported.
func TestImportFails(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		content io.Reader
		do      func() error
		kind    fault.Kind
	}{
		"the content breaks off": {io.MultiReader(bytes.NewReader(make([]byte, 1<<20)),
			errReader{fault.New(fault.Denied, "may not be read")}), nil, fault.Denied},
		"the store refuses": {strings.NewReader("x"), func() error { return fault.New(fault.Invalid, "no image") }, fault.Invalid},
		"the store panics":  {strings.NewReader("x"), func() error { panic("bug") }, fault.Internal},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := serve(t, importing(func(string, api.ImageImport, step.Reporter) error {
				if c.do == nil {
					t.Error("the store was asked to import half of the content")
					return nil
				}
				return c.do()
			}))
			_, err := w.client.Images().Import(deadline(t), c.content, api.ImageImport{}, nil)
			if fault.KindOf(err) != c.kind {
				t.Errorf("the import ended with %v (%s), want %s", err, fault.KindOf(err), c.kind)
			}
			w.client.Close()
			if err := w.Server.drain(deadline(t)); err != nil { // the server may still be at work
				t.Fatal(err)
			}
			if left := uploads(t, w.Layout); len(left) > 0 {
				t.Errorf("uploads are left over: %q", left)
			}
		})
	}
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

// TestImportIsRefusedEarly sends content without end: the refusal arrives nevertheless.
func TestImportIsRefusedEarly(t *testing.T) {
	t.Parallel()
	w := serve(t)
	_, err := w.client.Images().Import(deadline(t), endless{}, api.ImageImport{File: "a\nb"}, nil)
	if fault.KindOf(err) != fault.Invalid {
		t.Errorf("the import ended with %v (%s), want %s", err, fault.KindOf(err), fault.Invalid)
	}
}

// entry is one of a test's archive.
type entry struct {
	name, body string
	kind       byte
	size       int64 // instead of the body's
}

func tarOf(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, e := range entries {
		hdr := &tar.Header{Name: e.name, Typeflag: e.kind, Mode: 0o644, Size: max(e.size, int64(len(e.body)))}
		if e.kind == tar.TypeSymlink || e.kind == tar.TypeLink {
			hdr.Linkname, hdr.Size = e.body, 0
		}
		if err := tw.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		if hdr.Size == int64(len(e.body)) {
			io.WriteString(tw, e.body)
		}
	}
	tw.Close() // fails for an entry that is cut off, as it should be
	return b.Bytes()
}

// receiveKernel unpacks a kernel's archive, and returns what is in the upload's directory.
func receiveKernel(t *testing.T, data []byte, limit model.Bytes) (KernelFiles, string, error) {
	t.Helper()
	dir := t.TempDir()
	request := httptest.NewRequest("POST", "/", io.NopCloser(bytes.NewReader(data)))
	u, err := newUpload(httptest.NewRecorder(), request, dir, limit)
	if err != nil {
		t.Fatal(err)
	}
	files, err := u.kernel(true)
	var held []string
	walkErr := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(u.dir, path)
			held = append(held, rel)
		}
		return err
	})
	if err := errors.Join(walkErr, u.close()); err != nil {
		t.Fatal(err)
	}
	return files, strings.Join(held, " "), err
}

func TestKernelArchive(t *testing.T) {
	files, held, err := receiveKernel(t, tarOf(t,
		entry{name: "./modules/6.1/kernel/a.ko", body: "a"}, entry{name: "modules/6.1/build", body: "/etc", kind: tar.TypeSymlink},
		entry{name: "kernel", body: "k"}, entry{name: "config", body: "c"}, entry{name: "modules/6.1/modules.builtin"},
	), model.GiB)
	if err != nil {
		t.Fatal(err)
	}
	if want := "config kernel modules/6.1/kernel/a.ko modules/6.1/modules.builtin"; held != want {
		t.Errorf("the upload holds %s, want %s", held, want)
	}
	if filepath.Base(files.Kernel) != "kernel" || filepath.Base(files.Config) != "config" || filepath.Base(files.Modules) != "6.1" {
		t.Errorf("the files are %+v", files)
	}
}

func TestHostileKernelArchives(t *testing.T) {
	kernel := entry{name: "kernel", body: "k"}
	for what, c := range map[string]struct {
		data []byte
		says string
	}{
		"nothing":                 {nil, "no file named kernel"},
		"no tar":                  {[]byte(strings.Repeat("x", 2000)), "reading the archive"},
		"cut off":                 {tarOf(t, kernel, entry{name: "config", body: strings.Repeat("x", 4000)})[:2000], "unexpected EOF"},
		"no kernel":               {tarOf(t, entry{name: "config"}), "no file named kernel"},
		"two kernels":             {tarOf(t, kernel, kernel), "exists"},
		"a link for a kernel":     {tarOf(t, entry{name: "kernel", body: "/etc/passwd", kind: tar.TypeSymlink}), "no file named kernel"},
		"a path that leads out":   {tarOf(t, kernel, entry{name: "modules/6.1/../../../../escaped", body: "x"}), "which is not"},
		"a version that is ..":    {tarOf(t, kernel, entry{name: "modules/../x", body: "x"}), "which is not"},
		"an absolute path":        {tarOf(t, kernel, entry{name: "/etc/escaped", body: "x"}), "which is not"},
		"a file beside":           {tarOf(t, kernel, entry{name: "other", body: "x"}), "which is not"},
		"two versions":            {tarOf(t, kernel, entry{name: "modules/1/a"}, entry{name: "modules/2/a"}), "several versions"},
		"a file as a directory":   {tarOf(t, kernel, entry{name: "modules/1/a"}, entry{name: "modules/1/a/b"}), "not a directory"},
		"more than the limit":     {tarOf(t, entry{name: "kernel", body: strings.Repeat("x", 200_000)}), "larger than"},
		"a header without bounds": {tarOf(t, entry{name: "kernel", size: 1 << 50}), "larger than"},
		"a name that is too long": {tarOf(t, kernel, entry{name: "modules/1/" + strings.Repeat("x", 5000)}), "name too long"},
	} {
		t.Run(what, func(t *testing.T) {
			_, held, err := receiveKernel(t, c.data, 100_000)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("it was answered with %v, want something about %q", err, c.says)
			}
			if kind := fault.KindOf(err); kind != fault.Invalid && kind != fault.Canceled {
				t.Errorf("the error %v is of kind %s", err, kind)
			}
			if strings.Contains(held, "escaped") {
				t.Errorf("the archive wrote %s", held)
			}
		})
	}
}

func FuzzKernelArchive(f *testing.F) {
	f.Add([]byte("kernel"))
	f.Fuzz(func(t *testing.T, data []byte) {
		files, held, err := receiveKernel(t, data, 1<<20)
		if err == nil && files.Kernel == "" {
			t.Error("an archive without a kernel was taken")
		}
		if strings.Contains(held, "..") {
			t.Errorf("the archive wrote %s", held)
		}
	})
}
