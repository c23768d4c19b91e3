package archive_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/guest/archive"
	"banger/internal/testkit"
)

// unpackFile copies a file "f" with the given content to dst.
func unpackFile(t *testing.T, dst, content string) error {
	t.Helper()
	data := stream(t, header{file, "f", "", content})
	return archive.Unpack(t.Context(), bytes.NewReader(data), dst, archive.UnpackOptions{Source: "/x/f"})
}

// TestNamedLink copies to symbolic links that the user names. The link stays, and the file that it
// leads to is replaced.
func TestNamedLink(t *testing.T) {
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, "other"), 0o755)
	target, link := filepath.Join(dir, "other", "target"), filepath.Join(dir, "link")
	os.WriteFile(target, []byte("old"), 0o600)
	os.Symlink("second", link)
	os.Symlink("other/target", filepath.Join(dir, "second"))
	if err := unpackFile(t, link, "new"); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(link); to != "second" {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	if got, _ := os.ReadFile(target); string(got) != "new" {
		t.Errorf("the link's target holds %q", got)
	}

	os.Symlink("nothing", filepath.Join(dir, "dangling"))
	if err := unpackFile(t, filepath.Join(dir, "dangling"), "new"); fault.KindOf(err) != fault.WrongState {
		t.Errorf("copying to a link that leads nowhere: %v", err)
	}
	if to, _ := os.Readlink(filepath.Join(dir, "dangling")); to != "nothing" {
		t.Errorf("the link that leads nowhere leads to %q", to)
	}
	if _, err := os.Lstat(filepath.Join(dir, "nothing")); err == nil {
		t.Error("a file was made where the link led")
	}

	// A copied link replaces a link, as with cp -a.
	data := stream(t, header{symlink, "f", "elsewhere", ""})
	if err := archive.Unpack(t.Context(), bytes.NewReader(data), link, archive.UnpackOptions{}); err != nil {
		t.Error(err)
	}
	if to, _ := os.Readlink(link); to != "elsewhere" {
		t.Errorf("after the copy of a link to it, the link leads to %q", to)
	}
}

// TestNamedFIFO copies a file to a FIFO that the user names. Its reader gets the content.
func TestNamedFIFO(t *testing.T) {
	dir := t.TempDir()
	fifo, link := filepath.Join(dir, "fifo"), filepath.Join(dir, "link")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	os.Symlink("fifo", link)
	content := strings.Repeat("content", 100_000)
	for _, name := range []string{fifo, link} {
		read := make(chan string)
		go func() {
			time.Sleep(20 * time.Millisecond) // the copy waits for a reader
			data, _ := os.ReadFile(fifo)
			read <- string(data)
		}()
		if err := unpackFile(t, name, content); err != nil {
			t.Fatal(err)
		}
		if got := <-read; got != content {
			t.Errorf("the reader of %s got %d bytes, want %d", name, len(got), len(content))
		}
		if info, _ := os.Lstat(fifo); info.Mode() != fs.ModeNamedPipe|0o600 {
			t.Errorf("after the copy to %s, the FIFO is %v", name, info.Mode())
		}
	}

	// Nobody reads, or a reader reads nothing: the end of the context ends the copy.
	for what, flag := range map[string]int{"nobody reads": 0, "the reader reads nothing": os.O_RDWR} {
		if flag != 0 {
			f, err := os.OpenFile(fifo, flag, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		data := stream(t, header{file, "f", "", content})
		err := archive.Unpack(ctx, bytes.NewReader(data), fifo, archive.UnpackOptions{})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: the copy ends with %v", what, err)
		}
	}
}

// TestPatience copies to a FIFO that nobody reads, with a bound on the wait.
func TestPatience(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	data := stream(t, header{file, "f", "", "x"})
	opts := archive.UnpackOptions{Patience: time.Millisecond}
	if err := archive.Unpack(t.Context(), bytes.NewReader(data), fifo, opts); fault.KindOf(err) != fault.WrongState {
		t.Errorf("the copy ends with %v", err)
	}
}

// TestNamedDevice copies a file to devices that the user names, with the numbers of /dev/null and
// /dev/full.
func TestNamedDevice(t *testing.T) {
	testkit.Require(t, "root", os.Geteuid() == 0, "only root can make devices")
	dir := t.TempDir()
	null, full := filepath.Join(dir, "null"), filepath.Join(dir, "full")
	if err := errors.Join(unix.Mknod(null, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))), unix.Mknod(full, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 7)))); err != nil {
		t.Fatal(err)
	}
	if f, err := os.OpenFile(null, os.O_WRONLY, 0); err != nil {
		t.Skipf("devices cannot be opened here: %v", err)
	} else {
		f.Close()
	}
	if err := unpackFile(t, null, "content"); err != nil {
		t.Error(err)
	}
	if err := unpackFile(t, full, "content"); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("copying to a full device: %v", err)
	}
	data := stream(t, header{symlink, "f", "/etc/passwd", ""})
	if err := archive.Unpack(t.Context(), bytes.NewReader(data), null, archive.UnpackOptions{}); fault.KindOf(err) != fault.WrongState {
		t.Errorf("copying a link to a device: %v", err)
	}
	for _, name := range []string{null, full} {
		if info, err := os.Lstat(name); err != nil || info.Mode() != fs.ModeDevice|fs.ModeCharDevice|0o600 {
			t.Errorf("%s is %v, %v", name, info.Mode(), err)
		}
	}
}

// special makes a FIFO, a socket and, as root, a device in dir. The function reports what has
// become of them.
func special(t testing.TB, dir string) func() []string {
	t.Helper()
	kinds := map[string]uint32{"fifo": unix.S_IFIFO, "socket": unix.S_IFSOCK}
	if os.Geteuid() == 0 {
		kinds["device"] = unix.S_IFCHR
	}
	was := map[string]unix.Stat_t{}
	for name, kind := range kinds {
		path := filepath.Join(dir, name)
		var st unix.Stat_t
		if err := errors.Join(unix.Mknod(path, kind|0o640, int(unix.Mkdev(1, 3))), unix.Lstat(path, &st)); err != nil {
			t.Fatal(err)
		}
		was[name] = st
	}
	return func() (changed []string) {
		for name, old := range was {
			var st unix.Stat_t
			err := unix.Lstat(filepath.Join(dir, name), &st)
			if err != nil || st.Ino != old.Ino || st.Mode != old.Mode || st.Mtim != old.Mtim || st.Ctim != old.Ctim {
				changed = append(changed, name)
			}
		}
		return changed
	}
}

// TestInTheWay copies over devices, pipes and sockets whose names come from the other end, or from
// the source. They are neither replaced nor opened.
func TestInTheWay(t *testing.T) {
	for _, tt := range []struct {
		what    string
		kind    byte
		source  string
		above   string // of the entry
		dst     string
		dirOnly bool
	}{
		{"a file in a copied tree", file, "/x/t", "t/", "dst", true},
		{"a file in the contents of a tree", file, "/x/.", "./", "dst/t", true},
		{"a link in a copied tree", symlink, "/x/t", "t/", "dst", true},
		{"a hard link in a copied tree", link, "/x/t", "t/", "dst", true},
		{"a file in a named directory", file, "", "", "dst/t", false},
		{"a directory in a copied tree", directory, "/x/t", "t/", "dst", true},
	} {
		for _, name := range []string{"fifo", "socket", "device"} {
			if name == "device" && os.Geteuid() != 0 {
				continue
			}
			dir := t.TempDir()
			t.Chdir(dir)
			os.MkdirAll("dst/t", 0o755)
			changed := special(t, "dst/t")
			var entries []header
			if tt.dirOnly {
				entries = []header{{directory, tt.above, "", ""}, {file, tt.above + "a", "", "a"}}
			}
			e := header{tt.kind, tt.above + name, "", ""}
			switch tt.kind {
			case file:
				e.data = "content"
			case symlink:
				e.target = "/etc/passwd"
			case link:
				e.target = tt.above + "a"
			case directory:
				e.name += "/"
			}
			source := tt.source
			if source == "" {
				source = "/x/" + name
			}
			err := archive.Unpack(t.Context(), bytes.NewReader(stream(t, append(entries, e)...)), tt.dst, archive.UnpackOptions{Source: source})
			if fault.KindOf(err) != fault.WrongState {
				t.Errorf("%s over a %s: %v", tt.what, name, err)
			}
			if changed := changed(); changed != nil {
				t.Errorf("%s over a %s changed %v", tt.what, name, changed)
			}
			leftovers(t, dir)
		}
	}
	// The user names a socket: nothing can be copied there.
	dir := t.TempDir()
	changed := special(t, dir)
	if err := unpackFile(t, filepath.Join(dir, "socket"), "x"); fault.KindOf(err) != fault.WrongState {
		t.Errorf("copying to a socket: %v", err)
	}
	if changed := changed(); changed != nil {
		t.Errorf("copying to a socket changed %v", changed)
	}
}

// leftovers finds half-made files below dir.
func leftovers(t testing.TB, dir string) {
	t.Helper()
	filepath.WalkDir(dir, func(path string, _ fs.DirEntry, _ error) error {
		if strings.HasPrefix(filepath.Base(path), ".banger") {
			t.Errorf("%s is left", path)
		}
		return nil
	})
}

// TestFailedReplacement ends copies half way. What was at the destination stays, and nothing
// half-made is left.
func TestFailedReplacement(t *testing.T) {
	big := strings.Repeat("new", 100_000)
	whole := stream(t, header{directory, "t/", "", ""}, header{file, "t/f", "", big})
	single := stream(t, header{file, "f", "", big})
	dead, cancel := context.WithCancel(t.Context())
	broken := errors.New("broken")
	for _, tt := range []struct {
		what string
		data []byte
		dst  string
		end  error
		opts archive.UnpackOptions
	}{
		{"a single file, cut off", single, "t/f", io.EOF, archive.UnpackOptions{}},
		{"a single file by a link, cut off", single, "link", io.EOF, archive.UnpackOptions{}},
		{"a single file, connection lost", single, "t/f", broken, archive.UnpackOptions{}},
		{"a file of a tree, cut off", whole, ".", io.EOF, archive.UnpackOptions{}},
		{"a file of a tree, canceled", whole, ".", context.Canceled, archive.UnpackOptions{}},
		{"a single file, new", single, "t/new", io.EOF, archive.UnpackOptions{}},
	} {
		dir := t.TempDir()
		t.Chdir(dir)
		os.Mkdir("t", 0o755)
		os.WriteFile("t/f", []byte("precious"), 0o604)
		os.Symlink("t/f", "link")
		ctx, rest := t.Context(), iotest.ErrReader(tt.end)
		if tt.end == context.Canceled {
			ctx, rest = dead, readerFunc(func([]byte) (int, error) { cancel(); return 0, context.Canceled })
		}
		if err := archive.Unpack(ctx, io.MultiReader(bytes.NewReader(tt.data[:100_000]), rest), tt.dst, tt.opts); err == nil {
			t.Errorf("%s: no error", tt.what)
		}
		if got, err := os.ReadFile("t/f"); string(got) != "precious" {
			t.Errorf("%s: the old file holds %.10q, %v", tt.what, got, err)
		}
		if info, err := os.Lstat("t/f"); err != nil || info.Mode() != 0o604 {
			t.Errorf("%s: the old file is %v", tt.what, err)
		}
		if entries, _ := os.ReadDir("t"); len(entries) != 1 {
			t.Errorf("%s: left are %v", tt.what, entries)
		}
	}
	cancel()
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestReplacedWhole copies a tree over itself. The mode is that of the new file, and hard links
// within the archive lead to the new files.
func TestReplacedWhole(t *testing.T) {
	dir := t.TempDir()
	data := stream(t, header{directory, "t/", "", ""}, header{file, "t/f", "", "new"}, header{link, "t/g", "t/f", ""}, header{symlink, "t/h", "f", ""})
	os.Mkdir(filepath.Join(dir, "t"), 0o755)
	for _, name := range []string{"f", "g", "h"} {
		os.WriteFile(filepath.Join(dir, "t", name), []byte("old"), 0o600)
	}
	for range 2 {
		if err := archive.Unpack(t.Context(), bytes.NewReader(data), dir, archive.UnpackOptions{Umask: 0o022}); err != nil {
			t.Fatal(err)
		}
		var st [3]unix.Stat_t
		for i, name := range []string{"f", "g", "h"} {
			if err := unix.Lstat(filepath.Join(dir, "t", name), &st[i]); err != nil {
				t.Fatal(err)
			}
		}
		if st[0].Ino != st[1].Ino || st[0].Nlink != 2 {
			t.Errorf("f and g are not the same file, or one has a third name: %d links", st[0].Nlink)
		}
		if st[0].Mode != unix.S_IFREG|0o755 {
			t.Errorf("the mode is %o", st[0].Mode)
		}
		if st[2].Mode&unix.S_IFMT != unix.S_IFLNK {
			t.Errorf("h has mode %o, want a link", st[2].Mode)
		}
		leftovers(t, dir)
	}
}
