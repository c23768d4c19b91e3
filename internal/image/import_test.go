package image

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
)

var rootFiles = []file{
	{name: "./", typ: tar.TypeDir}, {name: "etc/os-release", body: "test"}, {name: "etc/inittab", body: "x"},
	{name: "sbin/init", body: "x", mode: 0o755},
}

func write(t *testing.T, path string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func gz(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(data)
	w.Close()
	return b.Bytes()
}

func zst(t *testing.T, data []byte) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return e.EncodeAll(data, nil)
}

func xz(t *testing.T, data []byte) []byte {
	t.Helper()
	cmd := exec.Command(requireTool(t, "xz"), "-9", "-c")
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// dockerArchive writes an archive like docker save.
func dockerArchive(t *testing.T, path string, images map[string]v1.Image) {
	t.Helper()
	refs := map[name.Tag]v1.Image{}
	for n, img := range images {
		tag, err := name.NewTag(n)
		if err != nil {
			t.Fatal(err)
		}
		refs[tag] = img
	}
	if err := tarball.MultiWriteToFile(path, refs); err != nil {
		t.Fatal(err)
	}
}

func ociLayout(t *testing.T, dir string, images ...v1.Image) {
	t.Helper()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range images {
		if err := p.AppendImage(img); err != nil {
			t.Fatal(err)
		}
	}
}

func tarUp(t *testing.T, dir, to string) {
	t.Helper()
	if out, err := exec.Command("tar", "-C", dir, "-cf", to, ".").CombinedOutput(); err != nil {
		t.Fatalf("tar: %v %s", err, out)
	}
}

func TestImport(t *testing.T) {
	requireTool(t, "debugfs")
	plain := makeTar(t, rootFiles...)
	img := makeImage(t, tarLayer(t, rootFiles...), tarLayer(t, file{name: "app", body: "x"}))
	for _, tt := range []struct {
		name   string
		make   func(t *testing.T, dir string) string // returns the path to import
		source Format
		want   string // the image's name
		init   string
	}{
		{"rootfs tar", func(t *testing.T, d string) string { return write(t, d+"/Root FS.tar", plain) }, FormatTar, "root-fs", "/sbin/init"},
		{"gzip", func(t *testing.T, d string) string { return write(t, d+"/a.tar.gz", gz(t, plain)) }, FormatTar, "a", "/sbin/init"},
		{"zstd", func(t *testing.T, d string) string { return write(t, d+"/a.tar.zst", zst(t, plain)) }, FormatTar, "a", "/sbin/init"},
		{"xz", func(t *testing.T, d string) string { return write(t, d+"/a.tar.xz", xz(t, plain)) }, FormatTar, "a", "/sbin/init"},
		{"replaced entries", func(t *testing.T, d string) string {
			return write(t, d+"/a.tar", makeTar(t, append([]file{{name: "etc/os-release", body: "old"}}, rootFiles...)...))
		}, FormatTar, "a", "/sbin/init"},
		{"docker archive", func(t *testing.T, d string) string {
			dockerArchive(t, d+"/x.tar", map[string]v1.Image{"team/app:1": img})
			return d + "/x.tar"
		}, FormatDocker, "team/app:1", "/sbin/init"},
		{"compressed docker archive", func(t *testing.T, d string) string {
			dockerArchive(t, d+"/x.tar", map[string]v1.Image{"team/app:1": img})
			data, _ := os.ReadFile(d + "/x.tar")
			return write(t, d+"/x.tar.gz", gz(t, data))
		}, FormatDocker, "team/app:1", "/sbin/init"},
		{"OCI layout directory", func(t *testing.T, d string) string { ociLayout(t, d+"/lay", img); return d + "/lay" }, FormatOCI, "lay", "/sbin/init"},
		{"OCI layout tarball", func(t *testing.T, d string) string {
			ociLayout(t, d+"/lay", img)
			tarUp(t, d+"/lay", d+"/out.tar")
			return d + "/out.tar"
		}, FormatOCI, "out", "/sbin/init"},
		{"directory", func(t *testing.T, d string) string {
			os.MkdirAll(d+"/root/etc", 0o755)
			write(t, d+"/root/etc/os-release", []byte("test"))
			os.Link(d+"/root/etc/os-release", d+"/root/etc/second")
			os.Symlink("/etc/shadow", d+"/root/link")
			return d + "/root"
		}, FormatDir, "root", ""},
		{"ext4", func(t *testing.T, d string) string {
			requireTool(t, "mkfs.ext4")
			if err := disk.Create(t.Context(), d+"/x.ext4", 64*model.MiB); err != nil {
				t.Fatal(err)
			}
			write(t, d+"/rel", []byte("test"))
			for _, c := range []string{"mkdir etc", "write " + d + "/rel etc/os-release"} {
				exec.Command(requireTool(t, "debugfs"), "-w", "-R", c, d+"/x.ext4").Run()
			}
			return d + "/x.ext4"
		}, FormatExt4, "x", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t, Options{})
			path := tt.make(t, t.TempDir())
			got, err := s.Import(t.Context(), path, ImportOptions{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			want, err := Parse(tt.want)
			if err != nil {
				t.Fatal(err)
			}
			if got.Source != string(tt.source) || len(got.Names) != 1 || got.Names[0] != want.Name || got.Init != tt.init {
				t.Errorf("source %q, names %v, init %q; want %q, %s, %q", got.Source, got.Names, got.Init, tt.source, want.Name, tt.init)
			}
			fsck(t, got.Path)
			if body := cat(t, got.Path, "/etc/os-release"); body != "test" {
				t.Errorf("/etc/os-release holds %q", body)
			}
			again, err := s.Import(t.Context(), path, ImportOptions{Name: "again"}, nil)
			if err != nil || again.ID != got.ID {
				t.Errorf("a second import has the id %s, %v; want %s", again.ID, err, got.ID)
			}
			nothingLeft(t, s)
		})
	}
}

func TestImportRefused(t *testing.T) {
	one := makeImage(t, tarLayer(t, file{name: "a", body: "1"}))
	two := makeImage(t, tarLayer(t, file{name: "a", body: "2"}))
	swapped := func(t *testing.T, d string) string {
		ociLayout(t, d+"/lay", one)
		layers, _ := one.Layers()
		digest, _ := layers[0].Digest()
		return write(t, d+"/lay/blobs/sha256/"+digest.Hex, gz(t, makeTar(t, file{name: "evil"})))
	}
	for _, tt := range []struct {
		name string
		make func(t *testing.T, dir string) string
		opts ImportOptions
		kind fault.Kind
		says string
	}{
		{"nothing", func(_ *testing.T, d string) string { return d + "/none" }, ImportOptions{}, fault.NotFound, ""},
		{"empty", func(t *testing.T, d string) string { return write(t, d+"/x", nil) }, ImportOptions{}, fault.Invalid, "docker-archive"},
		{"text", func(t *testing.T, d string) string { return write(t, d+"/x", []byte("hello")) }, ImportOptions{}, fault.Invalid, "ext4"},
		{"gzip of text", func(t *testing.T, d string) string { return write(t, d+"/x", gz(t, []byte("hello"))) }, ImportOptions{}, fault.Invalid, "ext4"},
		{"damaged gzip", func(t *testing.T, d string) string { return write(t, d+"/x", gz(t, makeTar(t, rootFiles...))[:100]) }, ImportOptions{}, fault.Invalid, ""},
		{"other format than asked for", func(t *testing.T, d string) string { return write(t, d+"/x", makeTar(t, rootFiles...)) }, ImportOptions{Format: FormatExt4}, fault.Invalid, ""},
		{"bad name", func(t *testing.T, d string) string { return write(t, d+"/x", makeTar(t, rootFiles...)) }, ImportOptions{Name: "No Name"}, fault.Invalid, ""},
		{"ext4 cut off", func(t *testing.T, d string) string { return write(t, d+"/x", ext4Head(func([]byte) {})) }, ImportOptions{}, fault.Invalid, "blocks"},
		{"ext4 with a full journal", func(t *testing.T, d string) string {
			return write(t, d+"/x", ext4Head(func(s []byte) { s[superIncompat] = incompatRecover }))
		}, ImportOptions{}, fault.Invalid, "journal"},
		{"layer that is not the one", func(t *testing.T, d string) string { return filepath.Dir(filepath.Dir(filepath.Dir(swapped(t, d)))) }, ImportOptions{}, fault.Invalid, "digest"},
		{"two images", func(t *testing.T, d string) string {
			dockerArchive(t, d+"/x.tar", map[string]v1.Image{"a:1": one, "b:1": two})
			return d + "/x.tar"
		}, ImportOptions{}, fault.Invalid, ""},
		{"layer that leads out", func(t *testing.T, d string) string {
			ociLayout(t, d+"/lay", one)
			id, _ := one.ConfigName()
			blob := d + "/lay/blobs/sha256/" + id.Hex
			data, _ := os.ReadFile(blob)
			os.Remove(blob)
			os.Symlink(write(t, d+"/outside", data), blob)
			return d + "/lay"
		}, ImportOptions{}, "", ""},
		{"docker archive without its layers", func(t *testing.T, d string) string {
			return write(t, d+"/x.tar", makeTar(t, file{name: "manifest.json", body: `[{"Config":"c.json","Layers":["../../../etc/passwd"]}]`}))
		}, ImportOptions{}, fault.Invalid, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t, Options{})
			_, err := s.Import(t.Context(), tt.make(t, t.TempDir()), tt.opts, nil)
			if err == nil || tt.kind != "" && fault.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v of kind %q, want %q with %q", err, fault.KindOf(err), tt.kind, tt.says)
			}
			nothingLeft(t, s)
		})
	}
	t.Run("two images, one chosen", func(t *testing.T) {
		path := t.TempDir() + "/x.tar"
		dockerArchive(t, path, map[string]v1.Image{"a:1": one, "b:1": two})
		got, err := newStore(t, Options{}).Import(t.Context(), path, ImportOptions{Select: "b:1"}, nil)
		if want, _ := two.ConfigName(); err != nil || got.ID != want.Hex {
			t.Errorf("image %s, %v; want %s", got.ID, err, want.Hex)
		}
	})
}

// Offsets and a flag of the superblock (Linux, Documentation/filesystems/ext4/super.rst).
const (
	superOffset, superBlocksLo, superMagic, superIncompat = 1024, 0x4, 0x38, 0x60

	incompatRecover = 0x4
)

// ext4Head is the first 4 KiB of a file system of 1000 blocks.
func ext4Head(change func(super []byte)) []byte {
	b := make([]byte, 4096)
	super := b[superOffset:]
	super[superMagic], super[superMagic+1] = 0x53, 0xef
	super[superBlocksLo], super[superBlocksLo+1] = 0xe8, 3
	change(super)
	return b
}

func TestBombs(t *testing.T) {
	zeros := makeTar(t, file{name: "a", body: strings.Repeat("\x00", 8<<20)})
	for name, data := range map[string][]byte{"gzip": gz(t, zeros), "zstd": zst(t, zeros), "xz": xz(t, zeros)} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, Options{Limits: Limits{Size: model.MiB}})
			_, err := s.Import(t.Context(), write(t, t.TempDir()+"/x", data), ImportOptions{}, nil)
			if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "limit") {
				t.Errorf("got %v, want an error that it is over the limit", err)
			}
			nothingLeft(t, s)
		})
	}
}
