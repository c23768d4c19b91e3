package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/archive"
	"banger/internal/testkit"
)

func TestBase(t *testing.T) {
	for _, tt := range []struct {
		src, name string
		contents  bool
	}{
		{"a", "a", false}, {"/x/a", "a", false}, {"/x/a/", "a", false}, {"a//", "a", false}, {"/x/.a", ".a", false},
		{"a/.", ".", true}, {".", ".", true}, {"..", ".", true}, {"a/..", ".", true}, {"/", ".", true}, {"//", ".", true}, {"a/./", ".", true},
	} {
		if name, contents := archive.Base(tt.src); name != tt.name || contents != tt.contents {
			t.Errorf("the base of %q is %q, contents %v", tt.src, name, contents)
		}
	}
}

func TestLand(t *testing.T) {
	const missing, directory, other = archive.Missing, archive.Directory, archive.Other
	for _, tt := range []struct {
		what      string
		root      string
		directory bool
		dst       string
		at        archive.Kind
		want      string // "dir|name" or a kind of error
	}{
		{"file into directory", "f", false, "/d", directory, "/d|f"},
		{"file into directory, slash", "f", false, "/d/", directory, "/d/|f"},
		{"file into here", "f", false, ".", directory, ".|f"},
		{"file under a new name", "f", false, "/d/g", missing, "/d/|g"},
		{"file under a new name here", "f", false, "g", missing, ".|g"},
		{"file under a new name at the top", "f", false, "/g", missing, "/|g"},
		{"file over file", "f", false, "d/g", other, "d/|g"},
		{"file into missing directory", "f", false, "d/", missing, "not-found"},
		{"file into file", "f", false, "g/", other, "wrong-state"},
		{"directory into directory", "t", true, "/d", directory, "/d|t"},
		{"directory under a new name", "t", true, "/d/u", missing, "/d/|u"},
		{"directory under a new name, slash", "t", true, "/d/u/", missing, "/d/|u"},
		{"directory under a new name, slash dot", "t", true, "/d/u/.", missing, "/d/|u"},
		{"directory over file", "t", true, "/d/g", other, "wrong-state"},
		{"contents into directory", ".", true, "/d", directory, "/d|."},
		{"contents under a new name", ".", true, "/d/u", missing, "/d/|u"},
		{"contents of a file", ".", false, "/d", directory, "invalid"},
		{"parent of nothing", "t", true, "nothing/..", missing, "not-found"},
		{"directory under the name ..", "t", true, "nothing/../..", missing, "not-found"},
		{"through a link, perhaps", "f", false, "link/../g", missing, "link/../|g"},
		{"nowhere", "f", false, "", missing, "invalid"},
	} {
		dir, name, err := archive.Land(tt.root, tt.directory, tt.dst, tt.at)
		got := dir + "|" + name
		if err != nil {
			got = string(fault.KindOf(err))
		}
		if got != tt.want {
			t.Errorf("%s lands at %s (%v), want %s", tt.what, got, err, tt.want)
		}
	}
}

// describe lists a tree: type and mode, owner if requested, size, target or linked name, time.
func describe(t *testing.T, root string) string {
	t.Helper()
	var lines []string
	first := map[uint64]string{}
	err := filepath.Walk(root, func(path string, info fs.FileInfo, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		line := fmt.Sprintf("%s %v %d.%09d", rel, info.Mode(), info.ModTime().Unix(), info.ModTime().Nanosecond())
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			line += " -> " + target
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			ino := info.Sys().(*syscall.Stat_t).Ino
			if other, ok := first[ino]; ok {
				line += " = " + other
			}
			first[ino] = rel
			line += fmt.Sprintf(" %d %.40q", len(data), data)
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// sample makes a tree with everything that a copy keeps.
func sample(t testing.TB, root string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	long := strings.Repeat("long", 40)
	must(os.MkdirAll(filepath.Join(root, "sub", long, long), 0o755))
	must(os.Mkdir(filepath.Join(root, "sealed"), 0o700))
	must(os.WriteFile(filepath.Join(root, "sub", long, long, "deep"), []byte("deep"), 0o640))
	must(os.WriteFile(filepath.Join(root, "sealed", "file"), []byte("x"), 0o400))
	must(os.WriteFile(filepath.Join(root, "run"), []byte("#!/bin/sh\n"), 0o755))
	must(os.WriteFile(filepath.Join(root, "bad\xffname \n"), nil, 0o600))
	must(os.WriteFile(filepath.Join(root, "big"), bytes.Repeat([]byte("0123456789"), 100_000), 0o644))
	must(os.Link(filepath.Join(root, "run"), filepath.Join(root, "sub", "run2")))
	must(os.Symlink("/etc/passwd", filepath.Join(root, "absolute")))
	must(os.Symlink("../../outside", filepath.Join(root, "sub", "dangling")))
	must(os.Symlink("sub", filepath.Join(root, "to-directory")))
	when := time.Unix(1_000_000_000, 123456789)
	must(os.Chtimes(filepath.Join(root, "run"), when, when))
	must(os.Chtimes(filepath.Join(root, "sub"), when, when))
	must(os.Chtimes(filepath.Join(root, "sealed"), when, when))
	must(os.Chmod(filepath.Join(root, "sealed"), 0o500))
	if c, ok := t.(interface{ Cleanup(func()) }); ok {
		c.Cleanup(func() { os.Chmod(filepath.Join(root, "sealed"), 0o700) })
	}
	must(os.Chtimes(root, when, when))
}

// copyTree packs src and unpacks it at dst.
func copyTree(src, dst string, opts archive.UnpackOptions) error {
	r, w := io.Pipe()
	go func() { w.CloseWithError(archive.Pack(context.Background(), w, src, archive.PackOptions{})) }()
	defer r.Close()
	return archive.Unpack(context.Background(), r, dst, opts)
}

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	sample(t, src)
	for _, tt := range []struct{ src, dst, at string }{
		{src, filepath.Join(dir, "new"), "new"},
		{src + "/.", filepath.Join(dir, "contents"), "contents"},
		{src + "/", dir + "/other", "other/src"},
	} {
		if tt.at == "other/src" {
			os.Mkdir(filepath.Join(dir, "other"), 0o755)
		}
		if err := copyTree(tt.src, tt.dst, archive.UnpackOptions{Source: tt.src}); err != nil {
			t.Fatal(err)
		}
		got := filepath.Join(dir, tt.at)
		t.Cleanup(func() { os.Chmod(filepath.Join(got, "sealed"), 0o700) })
		if got, want := describe(t, got), describe(t, src); got != want {
			t.Errorf("copying %s to %s made\n%s\nwant\n%s", tt.src, tt.dst, got, want)
		}
	}
}

// TestAgain: copying over an earlier copy replaces files, also links, and keeps the rest.
func TestAgain(t *testing.T) {
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	os.Mkdir(src, 0o777)
	os.WriteFile(filepath.Join(src, "f"), []byte("new"), 0o644)
	os.WriteFile(filepath.Join(src, "g"), []byte("new"), 0o644)
	os.Mkdir(dst, 0o700)
	outside := filepath.Join(dir, "outside")
	os.WriteFile(outside, []byte("precious"), 0o644)
	os.Symlink(outside, filepath.Join(dst, "f"))
	os.Link(outside, filepath.Join(dst, "g"))
	os.WriteFile(filepath.Join(dst, "mine"), []byte("mine"), 0o644)
	if err := copyTree(src+"/.", dst, archive.UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"outside": "precious", "dst/f": "new", "dst/g": "new", "dst/mine": "mine"} {
		if got, _ := os.ReadFile(filepath.Join(dir, name)); string(got) != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
	if info, _ := os.Stat(dst); info.Mode().Perm() != 0o700 {
		t.Errorf("the mode of a directory that was there is %v", info.Mode())
	}
}

func TestSingleFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	os.WriteFile(file, []byte("text"), 0o604)
	link := filepath.Join(dir, "link")
	os.Symlink("file", link)
	os.Mkdir(filepath.Join(dir, "d"), 0o755)
	os.Symlink("d", filepath.Join(dir, "to-d"))
	for _, tt := range []struct{ src, dst, at, want string }{
		{file, "/copy", "copy", "text"},
		{file, "/d", "d/file", "text"},
		{file, "/to-d/x", "d/x", "text"},
		{link, "/link2", "link2", "-> file"},
	} {
		if err := copyTree(tt.src, dir+tt.dst, archive.UnpackOptions{Source: tt.src}); err != nil {
			t.Errorf("copying %s to %s: %v", tt.src, tt.dst, err)
			continue
		}
		at := filepath.Join(dir, tt.at)
		got, _ := os.ReadFile(at)
		if target, err := os.Readlink(at); err == nil {
			got = []byte("-> " + target)
		}
		if string(got) != tt.want {
			t.Errorf("copying %s to %s made %q", tt.src, tt.dst, got)
		}
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	os.MkdirAll(path("tree/sub"), 0o755)
	os.WriteFile(path("file"), []byte("text"), 0o644)
	os.MkdirAll(path("clash1/tree"), 0o755)
	os.WriteFile(path("clash1/tree/sub"), nil, 0o644)
	os.MkdirAll(path("clash2/file"), 0o755)
	syscall.Mkfifo(path("pipe"), 0o600)
	for _, tt := range []struct {
		src, dst string
		want     fault.Kind
	}{
		{"nothing", "x", fault.NotFound},
		{"file/.", "x", fault.Unavailable}, // ENOTDIR: some trouble of the end that packs
		{"file/", "x", fault.Unavailable},
		{"pipe", "x", fault.Invalid},
		{"tree", "file", fault.WrongState},
		{"tree", "clash1", fault.WrongState},
		{"file", "clash2", fault.WrongState},
		{"file", "no/such/directory", fault.NotFound},
		{"file", "no-such-directory/", fault.NotFound},
	} {
		err := copyTree(dir+"/"+tt.src, dir+"/"+tt.dst, archive.UnpackOptions{})
		if err == nil {
			t.Errorf("copying %s to %s succeeded, want an error", tt.src, tt.dst)
			continue
		}
		if got := fault.KindOf(err); got != tt.want {
			t.Errorf("copying %s to %s returned %v: %v", tt.src, tt.dst, got, err)
		}
	}
}

func TestSkipped(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	os.Mkdir(src, 0o755)
	syscall.Mkfifo(filepath.Join(src, "pipe\x1b[31m"), 0o600)
	os.WriteFile(filepath.Join(src, "file"), nil, 0o644)
	var notes []string
	err := copyTree(src, filepath.Join(dir, "dst"), archive.UnpackOptions{Note: func(name, why string) { notes = append(notes, name+": "+why) }})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(notes, "\n"); got != "src/pipe: it is a pipe" {
		t.Errorf("notes: %q", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "dst", "file")); err != nil {
		t.Error(err)
	}
}

func TestOwners(t *testing.T) {
	testkit.Require(t, "root", os.Geteuid() == 0, "only root can give files away")
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	os.Mkdir(src, 0o755)
	os.WriteFile(filepath.Join(src, "f"), nil, 0o644)
	os.Symlink("f", filepath.Join(src, "l"))
	os.Lchown(filepath.Join(src, "f"), 70000, 5)
	os.Lchown(filepath.Join(src, "l"), 70000, 5)
	os.Chmod(filepath.Join(src, "f"), 0o6755|fs.ModeSetuid|fs.ModeSetgid)
	var stream bytes.Buffer
	if err := archive.Pack(context.Background(), &stream, src, archive.PackOptions{Owner: true}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		opts archive.UnpackOptions
		uid  uint32
		mode fs.FileMode
	}{
		{"host", archive.UnpackOptions{Umask: 0o022}, 0, 0o755},
		{"guest", archive.UnpackOptions{Special: true, Owner: func(uid, gid int) (int, int) { return uid, gid }}, 70000, 0o755 | fs.ModeSetuid | fs.ModeSetgid},
		{"user", archive.UnpackOptions{Owner: func(int, int) (int, int) { return 1234, 1234 }}, 1234, 0o755},
	} {
		dst := filepath.Join(dir, tt.name)
		if err := archive.Unpack(context.Background(), bytes.NewReader(stream.Bytes()), dst, tt.opts); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"f", "l"} {
			info, err := os.Lstat(filepath.Join(dst, name))
			if err != nil {
				t.Fatal(err)
			}
			if uid := info.Sys().(*syscall.Stat_t).Uid; uid != tt.uid {
				t.Errorf("%s: owner of %s is %d, want %d", tt.name, name, uid, tt.uid)
			}
			if name == "f" && info.Mode() != tt.mode {
				t.Errorf("%s: mode %v, want %v", tt.name, info.Mode(), tt.mode)
			}
		}
	}
}

// TestOtherTar: other tar programs read the stream.
func TestOtherTar(t *testing.T) {
	testkit.RequireTool(t, "tar")
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	sample(t, src)
	var stream bytes.Buffer
	if err := archive.Pack(context.Background(), &stream, src, archive.PackOptions{}); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	os.Mkdir(out, 0o755)
	cmd := exec.Command("tar", "-x", "-p", "-C", out)
	cmd.Stdin = &stream
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("another tar does not read a stream: %v: %s", err, text)
	}
	t.Cleanup(func() { os.Chmod(filepath.Join(out, "src", "sealed"), 0o700) })
	if got, want := describe(t, filepath.Join(out, "src")), describe(t, src); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// header is an entry of a hostile archive.
type header struct {
	kind         byte
	name, target string
	data         string
}

// stream writes entries and the record that ends them.
func stream(t testing.TB, entries ...header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Typeflag: e.kind, Name: e.name, Linkname: e.target, Size: int64(len(e.data)), Mode: 0o7777, Format: tar.FormatPAX}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, e.data)
	}
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, Format: tar.FormatPAX, PAXRecords: map[string]string{"BANGER.end": "complete"}})
	w.Close()
	return b.Bytes()
}
