package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

const (
	dir     = tar.TypeDir
	symlink = tar.TypeSymlink
	link    = tar.TypeLink
)

func TestMerge(t *testing.T) {
	requireTool(t, "debugfs")
	for _, tt := range []struct {
		name   string
		layers [][]file
		// want holds contents of files, "-> x" for links, and "(none)" for missing files.
		want map[string]string
	}{
		{"later layers win", [][]file{
			{{name: "a", body: "1"}, {name: "b", body: "1"}}, {{name: "a", body: "2"}},
		}, map[string]string{"/a": "2", "/b": "1"}},
		{"later entries win", [][]file{
			{{name: "a", body: "1"}, {name: "./a", body: "2"}, {name: "/a", body: "3"}},
		}, map[string]string{"/a": "3"}},
		{"whiteout", [][]file{
			{{name: "d/a", body: "1"}, {name: "d/b", body: "1"}, {name: "gone/x", body: "1"}},
			{{name: "d/.wh.a"}, {name: ".wh.gone"}},
		}, map[string]string{"/d/a": "(none)", "/d/b": "1", "/gone": "(none)", "/d/.wh.a": "(none)"}},
		{"whiteout hides lower layers only, in any order", [][]file{
			{{name: "d/a", body: "1"}, {name: "d/sub/x", body: "1"}},
			{{name: "d/a", body: "2"}, {name: "d/.wh.a"}, {name: "d/sub/y", body: "2"}, {name: "d/.wh.sub"}},
		}, map[string]string{"/d/a": "2", "/d/sub/x": "(none)", "/d/sub/y": "2"}},
		{"whiteout of a directory that the layer made anew below an old one", [][]file{
			{{name: "d/old", body: "1"}}, {{name: "d/new/x", body: "2"}, {name: ".wh.d"}},
		}, map[string]string{"/d/old": "(none)", "/d/new/x": "2"}},
		{"opaque directory", [][]file{
			{{name: "d/a", body: "1"}, {name: "d/e/f", body: "1"}},
			{{name: "d", typ: dir}, {name: "d/b", body: "2"}, {name: "d/.wh..wh..opq"}, {name: "d/c", body: "2"}},
		}, map[string]string{"/d/a": "(none)", "/d/e": "(none)", "/d/b": "2", "/d/c": "2"}},
		{"whiteouts of nothing", [][]file{
			{{name: ".wh.no"}, {name: "no/.wh.x"}, {name: "no/.wh..wh..opq"}, {name: ".wh..wh.plnk"}},
		}, map[string]string{"/no": "(none)"}},
		{"file over directory and back", [][]file{
			{{name: "x/y", body: "1"}, {name: "z", body: "1"}}, {{name: "x", body: "2"}, {name: "z/w", typ: dir}},
		}, nil},
		{"hard links", [][]file{
			{{name: "b", typ: link, link: "a"}, {name: "a", body: "1"}, {name: "c", typ: link, link: "b"}},
			{{name: "d", typ: link, link: "/c"}, {name: ".wh.a"}, {name: "b", body: "2"}},
		}, map[string]string{"/a": "(none)", "/b": "2", "/c": "1", "/d": "1"}},
		{"link to itself", [][]file{{{name: "a", body: "1"}, {name: "a", typ: link, link: "a"}}}, map[string]string{"/a": "1"}},
		{"hard link to a symbolic link", [][]file{
			{{name: "s", typ: symlink, link: "t"}, {name: "l", typ: link, link: "s"}},
		}, map[string]string{"/s": "-> t", "/l": "-> t"}},
		{"through links", [][]file{
			{{name: "usr/bin", typ: dir}, {name: "bin", typ: symlink, link: "usr/bin"}, {name: "abs", typ: symlink, link: "/bin"}},
			{{name: "bin/sh", body: "1"}, {name: "abs/ls", body: "2"}},
		}, map[string]string{"/usr/bin/sh": "1", "/usr/bin/ls": "2", "/bin": "-> usr/bin"}},
		{"through a link that leads out", [][]file{
			{{name: "up", typ: symlink, link: "../../../../etc"}, {name: "up/passwd", body: "1"}},
		}, map[string]string{"/etc/passwd": "1"}},
		{"names that lead out", [][]file{
			{{name: "../../x", body: "1"}, {name: "/abs/../../y", body: "2"}, {name: "a/../z", body: "3"}},
		}, map[string]string{"/x": "1", "/y": "2", "/z": "3"}},
		{"symbolic link over a directory", [][]file{
			{{name: "lib/x", body: "1"}, {name: "usr/lib/y", body: "1"}}, {{name: "lib", typ: symlink, link: "usr/lib"}, {name: "lib/z", body: "2"}},
		}, map[string]string{"/lib": "-> usr/lib", "/usr/lib/z": "2", "/usr/lib/y": "1"}},
		{"empty and scratch", [][]file{{}}, map[string]string{"/x": "(none)"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var archives [][]byte
			for _, l := range tt.layers {
				archives = append(archives, makeTar(t, l...))
			}
			path, _, err := convert(t, Limits{}, archives...)
			if tt.want == nil {
				if fault.KindOf(err) != fault.Invalid {
					t.Errorf("got %v, want an error that the archive is invalid", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			fsck(t, path)
			for name, want := range tt.want {
				if got := look(t, path, name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
		})
	}
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

// TestKept checks that attributes of files survive.
func TestKept(t *testing.T) {
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	long := strings.Repeat("n", maxName)
	target := strings.Repeat("t/", 300) + "end"
	path, _, err := convert(t, Limits{}, makeTar(t,
		file{name: "./", typ: dir, mode: 0o711},
		file{name: "su", body: "x", mode: 0o4755, uid: 123456},
		file{name: "cap", body: "x", pax: map[string]string{"SCHILY.xattr.security.capability": capability, "SCHILY.xattr.user.note": "hello"}},
		file{name: "acl", body: "x", pax: map[string]string{"SCHILY.xattr.system.posix_acl_access": "\x02\x00\x00\x00", "SCHILY.xattr.trusted.overlay.opaque": "y"}},
		file{name: "big", body: "x", pax: map[string]string{"SCHILY.xattr.user.big": strings.Repeat("v", 100_000), "SCHILY.xattr.user.small": "s"}},
		file{name: "disk", typ: tar.TypeBlock},
		file{name: "pipe", typ: tar.TypeFifo},
		file{name: long, body: "x"},
		file{name: "new\nline", body: "x"},
		file{name: "far", typ: symlink, link: target},
		file{name: "tmp", typ: dir, mode: 0o1777},
		file{name: "zeros", body: strings.Repeat("\x00", 1<<20) + "end"},
	))
	if err != nil {
		t.Fatal(err)
	}
	fsck(t, path)
	for name, want := range map[string][]string{
		"/su":   {"Mode:  04755", "User: 123456", "mtime: 0x6553f100"},
		"/cap":  {"security.capability (20)", `user.note (5) = "hello"`},
		"/big":  {"user.small (1)"},
		"/disk": {"Type: block special", "08:01"},
		"/pipe": {"Type: FIFO"},
		"/far":  {"Type: symlink", fmt.Sprintf("Size: %d", len(target))},
		"/tmp":  {"Mode:  01777"},
		"/run":  {"Type: directory", "Mode:  0755"},
		"/":     {"Mode:  0711"},
	} {
		for _, w := range want {
			if st := stat(t, path, name); !strings.Contains(st, w) {
				t.Errorf("%s: no %q in\n%s", name, w, st)
			}
		}
	}
	if st := stat(t, path, "/acl"); strings.Contains(st, "posix_acl") || strings.Contains(st, "overlay") {
		t.Errorf("/acl has attributes of the file system:\n%s", st)
	}
	if !bytes.Contains([]byte(debugfs(t, path, "ls -p /")), []byte("/"+long+"/")) {
		t.Error("the longest name is missing")
	}
	if got := cat(t, path, "/zeros"); got != strings.Repeat("\x00", 1<<20)+"end" {
		t.Errorf("%d zeros have other values", len(got))
	}
	info, _ := os.Stat(path)
	var held int64 = blocks(t, path)
	if held > info.Size()-(900<<10) {
		t.Errorf("%d of %d bytes are allocated; the zeros should be a hole", held, info.Size())
	}
}

func blocks(t *testing.T, path string) int64 {
	t.Helper()
	_, allocated, err := usage(path)
	if err != nil {
		t.Fatal(err)
	}
	return int64(allocated)
}

func TestHostileArchives(t *testing.T) {
	var many []file
	for i := range 60 {
		many = append(many, file{name: fmt.Sprintf("f%d", i)})
	}
	deep := strings.Repeat("d/", 2500)
	var loop, chain []file
	for i := range 50 {
		loop = append(loop, file{name: fmt.Sprintf("l%d", i), typ: symlink, link: fmt.Sprintf("l%d", (i+1)%50)})
		chain = append(chain, file{name: fmt.Sprintf("c%d", i), typ: link, link: fmt.Sprintf("c%d", i+1)})
	}
	good := makeTar(t, file{name: "a", body: strings.Repeat("x", 5000)})
	limits := Limits{Entries: 50, Size: 1 * model.MiB}
	for name, archive := range map[string][]byte{
		"too many entries":            makeTar(t, many...),
		"too many implied directorys": makeTar(t, file{name: strings.Repeat("d/", 60), typ: dir}),
		"too large":                   makeTar(t, file{name: "a", body: strings.Repeat("x", 2<<20)}),
		"huge sparse file":            sparseTar(t, 1<<50),
		"path too long":               makeTar(t, file{name: deep + "x"}),
		"name too long":               makeTar(t, file{name: strings.Repeat("n", maxName+1)}),
		"directory name too long":     makeTar(t, file{name: strings.Repeat("n", maxName+1) + "/x"}),
		"link loop":                   makeTar(t, append(loop[:49:49], file{name: "l49", typ: symlink, link: "l0"}, file{name: "l0/x"})[1:]...),
		"self loop":                   makeTar(t, file{name: "s", typ: symlink, link: "s"}, file{name: "s/x"}),
		"hard links to nothing":       makeTar(t, chain...),
		"hard link out of the tree":   makeTar(t, file{name: "h", typ: link, link: "../../../../etc/passwd"}),
		"hard link to a directory":    makeTar(t, file{name: "d", typ: dir}, file{name: "h", typ: link, link: "d"}),
		"hard link through a file":    makeTar(t, file{name: "f"}, file{name: "h", typ: link, link: "f/x"}),
		"through a file":              makeTar(t, file{name: "f"}, file{name: "f/x"}),
		"target too long":             makeTar(t, file{name: "s", typ: symlink, link: strings.Repeat("t", maxTarget+1)}),
		"root is a file":              makeTar(t, file{name: "./", typ: symlink, link: "x"}),
		"cut off in a file":           good[:2000],
		"cut off in a header":         good[:300],
		"size that lies":              patch(good, 124, "77777777777\x00"),
		"unknown type":                patch(good, 156, "Z"),
		"no tar at all":               bytes.Repeat([]byte("hostile "), 1000),
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := convert(t, limits, archive)
			if fault.KindOf(err) != fault.Invalid {
				t.Errorf("got %v of kind %q, want invalid", err, fault.KindOf(err))
			}
		})
	}
}

// patch overwrites a part of an archive's first header and corrects its checksum.
func patch(archive []byte, at int, with string) []byte {
	b := bytes.Clone(archive)
	copy(b[at:], with)
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// sparseTar is an archive with a file that claims to be nearly all hole (GNU tar's format 1.0).
func sparseTar(t *testing.T, size int64) []byte {
	t.Helper()
	raw := makeTar(t, file{name: "a", body: "0\n" + strings.Repeat("\x00", 510), pax: map[string]string{"VENDOR.x": strings.Repeat("p", 120)}})
	// The writer rejects sparse records, so this replaces a record of the same length.
	records := fmt.Sprintf("22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n%d GNU.sparse.realsize=%d\n", len(fmt.Sprintf(" GNU.sparse.realsize=%d\n", size))+2, size)
	start := bytes.Index(raw, []byte("VENDOR.x"))
	start = bytes.LastIndexByte(raw[:start], 0) + 1
	end := start + bytes.IndexByte(raw[start:], 0)
	if pad := end - start - len(records); pad >= 20 {
		records += fmt.Sprintf("%d VENDOR.x=%s\n", pad, strings.Repeat("p", pad-len(fmt.Sprint(pad))-len(" VENDOR.x=\n")))
	} else {
		t.Fatalf("no room for the records: %d", pad)
	}
	copy(raw[start:], records)
	return raw
}

// TestSparse checks that a sparse entry within the limits is expanded, and is a hole in the image.
func TestSparse(t *testing.T) {
	path, _, err := convert(t, Limits{}, sparseTar(t, 8<<20))
	if err != nil {
		t.Fatal(err)
	}
	fsck(t, path)
	if st := stat(t, path, "/a"); !strings.Contains(st, "Size: 8388608") {
		t.Errorf("the file has another size:\n%s", st)
	}
	if held := blocks(t, path); held > 1<<20 {
		t.Errorf("%d bytes are allocated for a hole", held)
	}
}

func TestStream(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files []file
		want  error
	}{
		{"plain", []file{{name: "./", typ: dir, mode: 0o700}, {name: "d/a", body: "1"}, {name: "d", typ: dir, mode: 0o711}, {name: "z", typ: link, link: "d/a"}}, nil},
		{"hard link first", []file{{name: "z", typ: link, link: "d/a"}, {name: "d/a", body: "1"}}, nil},
		{"files called like whiteouts", []file{{name: "d/a", body: "1"}, {name: "d/.wh.a", body: "2"}}, nil},
		{"replaced", []file{{name: "d/a", body: "0"}, {name: "d/a", body: "1"}}, errNotStreamable},
		{"replaced by a link", []file{{name: "b", body: "0"}, {name: "d/a", body: "1"}, {name: "b", typ: link, link: "d/a"}}, errNotStreamable},
		{"directory replaced", []file{{name: "d/b", body: "0"}, {name: "d", typ: symlink, link: "e"}, {name: "d/a", body: "1"}}, errNotStreamable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "rootfs.ext4")
			out, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			archive := makeTar(t, tt.files...)
			c := &Conversion{Limits: Limits{}.WithDefaults(), Out: out}
			_, sum, err := c.Stream(t.Context(), io.NopCloser(bytes.NewReader(archive)))
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if err != nil {
				return
			}
			fsck(t, path)
			if got := cat(t, path, "/d/a"); got != "1" {
				t.Errorf("/d/a is %q, want 1", got)
			}
			if sum != sha(archive) {
				t.Errorf("digest %s, want %s", sum, sha(archive))
			}
		})
	}
}

// TestBothWaysAgree converts the same archive in one pass and in two.
func TestBothWaysAgree(t *testing.T) {
	archive := makeTar(t, file{name: "d", typ: dir}, file{name: "d/a", body: "1"}, file{name: "l", typ: link, link: "d/a"}, file{name: "s", typ: symlink, link: "l"})
	two, _, err := convert(t, Limits{}, archive)
	if err != nil {
		t.Fatal(err)
	}
	one := filepath.Join(t.TempDir(), "rootfs.ext4")
	out, err := os.Create(one)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c := &Conversion{Limits: Limits{}.WithDefaults(), Out: out}
	if _, _, err := c.Stream(t.Context(), io.NopCloser(bytes.NewReader(archive))); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/", "/d"} {
		if a, b := list(t, one, dir), list(t, two, dir); !reflect.DeepEqual(a, b) {
			t.Errorf("%s has %v in one pass, %v in two", dir, a, b)
		}
	}
}

func TestConversionEndsWithItsContext(t *testing.T) {
	archive := makeTar(t, file{name: "a", body: strings.Repeat("x", 4<<20)})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, err := os.Create(filepath.Join(t.TempDir(), "rootfs.ext4"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	pr, pw := io.Pipe()
	go func() {
		pw.Write(archive[:1<<20])
		cancel() // in the middle of a file, whose rest never comes
	}()
	c := &Conversion{Limits: Limits{}.WithDefaults(), Out: out}
	if _, _, err := c.Stream(ctx, pr); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want a cancelled context", err)
	}
}
