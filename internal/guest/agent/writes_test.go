package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/mount"
	"banger/internal/guest/proto"
)

// tick is longer than a tick of the file system's clock.
const tick = 40 * time.Millisecond

// TestWrittenSince checks which files of a boot are reported.
func TestWrittenSince(t *testing.T) {
	root, other := t.TempDir(), t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("of-the-image", "x")
	write("renamed-later", "x")
	if err := os.WriteFile(filepath.Join(other, "beyond-a-link"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(tick)
	since := time.Now()
	time.Sleep(tick)
	write("app/key", "secret")
	write("empty", "")
	write("backdated", "secret")
	old := time.Unix(1, 0)
	write("var/log/log", "x")
	write("var/lib/key", "secret")
	for _, err := range []error{
		os.Chtimes(filepath.Join(root, "backdated"), old, old),
		os.Rename(filepath.Join(root, "renamed-later"), filepath.Join(root, "renamed")),
		os.Symlink(other, filepath.Join(root, "link")),
		unix.Mkfifo(filepath.Join(root, "pipe"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	w := writtenSince(since, mount.Layer{Dir: root, Shown: "/"}, mount.Layer{Dir: filepath.Join(root, "missing"), Shown: "/var/lib/docker"})
	slices.Sort(w.Paths)
	if want := []string{"/app/key", "/backdated", "/renamed", "/var/lib/key"}; !slices.Equal(w.Paths, want) {
		t.Errorf("written are %q, want %q", w.Paths, want)
	}
	if want := []string{"/link"}; !slices.Equal(w.Links, want) {
		t.Errorf("the links are %q, want %q", w.Links, want)
	}
	if w.More {
		t.Error("the report says that there is more")
	}
	if w = writtenSince(since, mount.Layer{Dir: filepath.Join(root, "missing"), Shown: "/"}); !w.More {
		t.Error("a root that cannot be read counts as one without writes")
	}
}

// TestWritesAreBounded checks that a report has a bound, and says so.
func TestWritesAreBounded(t *testing.T) {
	root := t.TempDir()
	for i := range proto.MaxWrites + 1 {
		if err := os.WriteFile(filepath.Join(root, fmt.Sprint(i)), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := writtenSince(time.Unix(0, 0), mount.Layer{Dir: root, Shown: "/"})
	if len(w.Paths) != proto.MaxWrites || !w.More {
		t.Errorf("the report has %d files, and more: %v", len(w.Paths), w.More)
	}
}

// TestClockSteps sets the guest's clock between a mark and the search. Files that were written
// before and after the step count.
func TestClockSteps(t *testing.T) {
	for name, step := range map[string]time.Duration{"forward": time.Hour, "back": -time.Hour, "no step": 0} {
		var m marks
		m.add("assumed")
		begin := time.Now().Round(0)
		m.wall["assumed"] = begin.Add(-step) // what the clock showed before the step
		since, ok := m.since("assumed")
		want := begin
		if step > 0 {
			want = begin.Add(-step)
		}
		if off := since.Sub(want).Abs(); !ok || off > time.Minute {
			t.Errorf("%s: the search begins at %v, %v; want %v", name, since, ok, want)
		}
	}
	if _, ok := new(marks).since("assumed"); ok {
		t.Error("a mark that is not there has a time")
	}
}
