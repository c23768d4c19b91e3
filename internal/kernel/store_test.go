package kernel

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
)

func openForTest(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// importForTest imports a kernel that differs from others in its version.
func importForTest(t *testing.T, s *Store, version string, names ...string) model.Kernel {
	t.Helper()
	file := writeFile(t, filepath.Join(t.TempDir(), "vmlinux"), fakeKernel{version: version, config: fullConfig()}.vmlinux())
	var k model.Kernel
	for _, name := range names {
		var err error
		if k, err = s.Import(t.Context(), ImportOptions{Path: file, Name: name}, nil); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

func nobody(string) []string { return nil }

func TestGet(t *testing.T) {
	s := openForTest(t)
	a, b := importForTest(t, s, "6.1.1", "a", "first"), importForTest(t, s, "6.1.2", "b")
	for ref, want := range map[string]string{"a": a.ID, "first": a.ID, a.ID: a.ID, a.ID[:8]: a.ID, "b": b.ID} {
		if k, err := s.Get(ref); err != nil || k.ID != want {
			t.Errorf("Get(%s): %v, %v", ref, k.ID, err)
		}
	}
	for _, ref := range []string{"", "c", "..", "names", "names/a", strings.Repeat("0", 64)} {
		if _, err := s.Get(ref); fault.KindOf(err) != fault.NotFound || fault.HintOf(err) == "" {
			t.Errorf("Get(%q): got %v, want an error", ref, err)
		}
	}
	list, err := s.List()
	if err != nil || len(list) != 2 || !slices.Equal(list[slices.IndexFunc(list, func(k model.Kernel) bool { return k.ID == a.ID })].Names, []string{"a", "first"}) {
		t.Errorf("List: %+v, %v", list, err)
	}
}

func TestAmbiguousPrefix(t *testing.T) {
	s := openForTest(t)
	k := importForTest(t, s, "6.1.1", "a")
	twin := k.ID[:60] + "0000"
	if err := os.CopyFS(filepath.Join(s.dir, twin), os.DirFS(filepath.Join(s.dir, k.ID))); err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(s.dir, twin, recordFile)
	data, _ := os.ReadFile(record)
	writeFile(t, record, []byte(strings.Replace(string(data), k.ID, twin, 1)))
	if _, err := s.Get(k.ID[:8]); fault.KindOf(err) != fault.Invalid {
		t.Errorf("an ambiguous prefix: got %v, want fault.Invalid", err)
	}
	if got, err := s.Get(twin); err != nil || got.ID != twin {
		t.Errorf("a whole id that begins other ids: %v", err)
	}
}

func TestDelete(t *testing.T) {
	s := openForTest(t)
	k := importForTest(t, s, "6.1.1", "a", "b")
	used := func(id string) []string { return []string{"quiet-otter"} }
	if err := s.Delete(t.Context(), "a", used); err != nil {
		t.Errorf("deleting one of two names: %v", err)
	}
	if err := s.Delete(t.Context(), "b", used); fault.KindOf(err) != fault.WrongState || !strings.Contains(err.Error(), "quiet-otter") {
		t.Errorf("deleting the last name of a used kernel: got %v, want fault.WrongState and its user", err)
	}
	if err := s.Delete(t.Context(), k.ID[:8], nobody); err != nil {
		t.Error(err)
	}
	if err := s.Delete(t.Context(), "b", nobody); fault.KindOf(err) != fault.NotFound {
		t.Errorf("deleting again: got %v, want fault.NotFound", err)
	}
	if left := listDir(t, s.dir); len(left) != 1 {
		t.Errorf("left over: %v", left)
	}
}

func TestPrune(t *testing.T) {
	s := openForTest(t)
	old := importForTest(t, s, "6.1.1", "debian")
	kept := importForTest(t, s, "6.1.2", "debian") // it takes the name
	writeFile(t, filepath.Join(s.dir, tmpPrefix+"crashed", "vmlinux"), []byte("half a kernel"))
	busy := filepath.Join(s.dir, tmpPrefix+"busy")
	if err := os.Mkdir(busy, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Open(busy)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	removed, err := s.Prune(t.Context(), func(id string) []string { return []string{"a VM"} })
	if err != nil || len(removed) != 0 {
		t.Errorf("Prune removed a used kernel: %v, %v", removed, err)
	}
	removed, err = s.Prune(t.Context(), nobody)
	if err != nil || len(removed) != 1 || removed[0].ID != old.ID {
		t.Errorf("Prune removed %v, %v", removed, err)
	}
	want := []string{kept.ID, "names", tmpPrefix + "busy"}
	slices.Sort(want)
	if got := listDir(t, s.dir); !slices.Equal(got, want) {
		t.Errorf("after Prune there is %v, want %v", got, want)
	}
}

// TestReopen checks that a reopened store has its kernels, and nothing that a crash left.
func TestReopen(t *testing.T) {
	s := openForTest(t)
	k := importForTest(t, s, "6.1.1", "a")
	writeFile(t, filepath.Join(s.dir, tmpPrefix+"deleted-"+k.ID, "vmlinux"), nil)
	writeFile(t, filepath.Join(s.dir, namesDir, tmpPrefix+"1"), nil)
	writeFile(t, filepath.Join(s.dir, namesDir, "dangling"), []byte(strings.Repeat("0", 64)))
	again, err := Open(s.dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Get("a"); err != nil || got.ID != k.ID || got.Vmlinux != k.Vmlinux {
		t.Errorf("after reopening: got %+v, %v", got, err)
	}
	if _, err := again.Get("dangling"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a name without a kernel: got %v, want fault.NotFound", err)
	}
	if got := listDir(t, s.dir); len(got) != 2 {
		t.Errorf("left over: %v", got)
	}
}

func TestLockHonoursContext(t *testing.T) {
	s := openForTest(t)
	unlock, err := s.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Prune(ctx, nobody); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting with a canceled context: %v", err)
	}
}

// listDir lists a directory.
func listDir(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestIDIsNoName claims that an id leads to its own kernel only, whatever names kernels have.
func TestIDIsNoName(t *testing.T) {
	s := openForTest(t)
	pinned, other := importForTest(t, s, "6.1.1", "pinned"), importForTest(t, s, "6.1.2", "other")
	for _, name := range []string{pinned.ID, pinned.ID[:12], pinned.ID[:8], "deadbeef", strings.Repeat("a", 63)} {
		if err := CheckName(name); fault.KindOf(err) != fault.Invalid {
			t.Errorf("the name %s, which reads as an id: %v", name, err)
		}
	}
	if err := s.setName(pinned.ID[:12], other.ID); err != nil { // an older version has accepted it
		t.Fatal(err)
	}
	if err := s.setName("00000000", other.ID); err != nil {
		t.Fatal(err)
	}
	if k, err := s.Get("00000000"); err != nil || k.ID != other.ID {
		t.Errorf("an old name that no id begins with finds %.12s, %v; want %.12s", k.ID, err, other.ID)
	}
	if k, err := s.Get(pinned.ID[:12]); err != nil || k.ID != pinned.ID {
		t.Errorf("an id that is also an old name finds %.12s, %v; want %.12s", k.ID, err, pinned.ID)
	}
	if k, err := s.ByID(pinned.ID); err != nil || k.ID != pinned.ID || len(k.Names) != 1 {
		t.Errorf("ByID = %.12s %v, %v; want %.12s with its name", k.ID, k.Names, err, pinned.ID)
	}
	for _, ref := range []string{"pinned", pinned.ID[:12], "", strings.Repeat("0", 64)} {
		if k, err := s.ByID(ref); fault.KindOf(err) != fault.NotFound {
			t.Errorf("ByID(%q) finds %.12s, %v; only a whole id counts", ref, k.ID, err)
		}
	}
}

// TestVersionReplacesNothing claims that a kernel's version, which its file chooses, takes no name.
func TestVersionReplacesNothing(t *testing.T) {
	s := openForTest(t)
	mine := importForTest(t, s, "6.1.1", "6.1.2")
	file := writeFile(t, filepath.Join(t.TempDir(), "vmlinux"), fakeKernel{version: "6.1.2", config: fullConfig()}.vmlinux())
	k, err := s.Import(t.Context(), ImportOptions{Path: file}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(k.Names) != 0 || len(k.Notices) != 1 || !strings.Contains(k.Notices[0].Hint, "banger kernel tag") {
		t.Errorf("the kernel has the names %v and the notices %+v; want no name, and the way out", k.Names, k.Notices)
	}
	if got, err := s.Get("6.1.2"); err != nil || got.ID != mine.ID {
		t.Errorf("after the import, the name finds %.12s, %v; want %.12s", got.ID, err, mine.ID)
	}
	if isVersion(Debian) {
		t.Errorf("a kernel of version %s is possible, and would take that name", Debian)
	}
}

// TestNameMoves claims that a name that a person gives moves, that banger says so, and that it can
// be moved back.
func TestNameMoves(t *testing.T) {
	s := openForTest(t)
	first, second := importForTest(t, s, "6.1.1", "mine"), importForTest(t, s, "6.1.2", "mine")
	if len(first.Notices) != 0 || len(second.Notices) != 1 || !strings.Contains(second.Notices[0].Text, first.ID[:12]) {
		t.Errorf("the notices are %+v for a free name and %+v for a moved one", first.Notices, second.Notices)
	}
	if k, err := s.Get("mine"); err != nil || k.ID != second.ID {
		t.Errorf("the moved name finds %.12s, %v", k.ID, err)
	}
	back, err := s.Tag(t.Context(), first.ID, "mine")
	if k, getErr := s.Get("mine"); err != nil || getErr != nil || k.ID != first.ID || len(back.Notices) != 1 {
		t.Errorf("moved back, the name finds %.12s, %v, %v; the notices are %+v", k.ID, err, getErr, back.Notices)
	}
	if _, err := s.Tag(t.Context(), first.ID, second.ID); fault.KindOf(err) != fault.Invalid {
		t.Errorf("the name that is another kernel's id: %v", err)
	}
	if _, err := s.Tag(t.Context(), "none", "x"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("naming a kernel that is not there: %v", err)
	}
}
