package image

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/testkit"
)

func TestParse(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("a", 64)
	for in, want := range map[string]Ref{
		"debian:bookworm":                   {Name: "debian:bookworm", Suite: "bookworm"},
		"debian:sid":                        {Name: "debian:sid", Suite: "sid"},
		"debian:12":                         {Name: "docker.io/library/debian:12"},
		"debian":                            {Name: "docker.io/library/debian:latest"},
		"library/debian:bookworm":           {Name: "docker.io/library/debian:bookworm"},
		"docker.io/library/debian:bookworm": {Name: "docker.io/library/debian:bookworm"},
		"alpine":                            {Name: "docker.io/library/alpine:latest"},
		"alpine:3":                          {Name: "docker.io/library/alpine:3"},
		"me/app":                            {Name: "docker.io/me/app:latest"},
		"registry.example/me/app:1":         {Name: "registry.example/me/app:1"},
		"localhost:5000/app":                {Name: "localhost:5000/app:latest"},
		"alpine" + digest:                   {Name: "docker.io/library/alpine" + digest},
		"":                                  {}, "Big/Name": {}, "a b": {}, "../x": {}, "a/../b": {}, "x:y:z": {}, strings.Repeat("a", 300): {}, "\x00": {}, "a\nb": {},
		strings.Repeat("a/", 100) + "a": {}, // too long when escaped
	} {
		got, err := Parse(in)
		if want.Name == "" {
			if fault.KindOf(err) != fault.Invalid {
				t.Errorf("Parse(%q) = %q, %v; want an error", clip(in), got.Name, err)
			}
			continue
		}
		if err != nil || got.Name != want.Name || got.Suite != want.Suite {
			t.Errorf("Parse(%q) = %q %q, %v; want %q %q", in, got.Name, got.Suite, err, want.Name, want.Suite)
		}
		if again, err := Parse(got.Name); err != nil || again.Name != got.Name {
			t.Errorf("Parse(%q) = %q, %v; a full name must parse to itself", got.Name, again.Name, err)
		}
	}
}

// importFile makes an image with one file in it.
func importFile(t *testing.T, s *Store, body, name string) model.Image {
	t.Helper()
	path := write(t, filepath.Join(t.TempDir(), "x.tar"), makeTar(t, file{name: "f", body: body}))
	img, err := s.Import(t.Context(), path, ImportOptions{Name: name}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func nobody(string) []string { return nil }

func TestGet(t *testing.T) {
	s := newStore(t, Options{})
	a, b := importFile(t, s, "1", "one"), importFile(t, s, "2", "team/two:x")
	for ref, want := range map[string]string{
		"one": a.ID, "one:latest": a.ID, "docker.io/library/one": a.ID, "team/two:x": b.ID, a.ID: a.ID, b.ID[:6]: b.ID, "sha256:" + a.ID: a.ID,
		"team/two": "", "zzz": "", "debian:bookworm": "", "0123456789": "",
	} {
		got, err := s.Get(ref)
		if got.ID != want || want == "" && (fault.KindOf(err) != fault.NotFound || fault.HintOf(err) == "") {
			t.Errorf("Get(%q) = %q, %v; want %q", ref, got.ID, err, want)
		}
	}
	if _, err := s.Get("No Name"); fault.KindOf(err) != fault.Invalid {
		t.Errorf("Get of a bad name: %v", err)
	}
	images, err := s.List()
	if err != nil || len(images) != 2 || images[0].ID != b.ID || !reflect.DeepEqual(images[1], a) {
		t.Errorf("List() = %v, %v; want the newest first", images, err)
	}
}

func TestAmbiguousPrefix(t *testing.T) {
	s := newStore(t, Options{})
	seen := map[string]bool{}
	for i := range 1000 {
		id := sha([]byte(fmt.Sprint(i)))
		if err := os.Mkdir(filepath.Join(s.dir, id), 0o755); err != nil {
			t.Fatal(err)
		}
		if seen[id[:3]] {
			if _, err := s.Get(id[:3]); fault.KindOf(err) != fault.Invalid {
				t.Errorf("Get(%q): %v; want an error that it is ambiguous", id[:3], err)
			}
			return
		}
		seen[id[:3]] = true
	}
	t.Fatal("no two ids of 1000 start alike")
}

func TestDelete(t *testing.T) {
	s := newStore(t, Options{})
	img := importFile(t, s, "1", "one")
	importFile(t, s, "1", "uno")
	used := func(string) []string { return []string{"quiet-otter"} }

	if r, err := s.Delete("uno", used); err != nil || len(r.Names) != 1 || len(r.Images) != 0 {
		t.Errorf("deleting one of two names: %+v, %v", r, err)
	}
	if _, err := s.Delete("one", used); fault.KindOf(err) != fault.WrongState || !strings.Contains(err.Error(), "quiet-otter") {
		t.Errorf("deleting an image in use: %v", err)
	}
	if got, err := s.Get("one"); err != nil || got.ID != img.ID {
		t.Errorf("an image in use was removed: %v", err)
	}
	if r, err := s.Delete(img.ID[:12], nobody); err != nil || len(r.Images) != 1 || r.Freed == 0 {
		t.Errorf("deleting an image: %+v, %v", r, err)
	}
	if _, err := s.Delete("one", nobody); fault.KindOf(err) != fault.NotFound {
		t.Errorf("deleting an image again: %v", err)
	}
	if _, err := os.Stat(img.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a deleted image's file is still there: %v", err)
	}
	nothingLeft(t, s)
}

func TestPrune(t *testing.T) {
	h := newHub(t)
	s := newStore(t, Options{})
	named, used := importFile(t, s, "1", "one"), importFile(t, s, "2", "moving")
	importFile(t, s, "3", "moving")
	dangling := importFile(t, s, "4", "moving")
	importFile(t, s, "5", "moving")
	pulled, err := s.Pull(t.Context(), h.push(t, "app:1", makeImage(t, tarLayer(t, file{name: "a"}))), PullOptions{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, s.blobPath(strings.Repeat("0", 64)), []byte("of no image"))
	write(t, s.names.file("docker.io/library/lost:latest"), []byte(strings.Repeat("0", 64)))
	inUse := func(id string) []string {
		if id == used.ID {
			return []string{"vm"}
		}
		return nil
	}
	r, err := s.Prune(inUse, false)
	if err != nil || len(r.Images) != 2 || r.Blobs != 1 || len(r.Names) != 1 {
		t.Errorf("Prune: %+v, %v; want two images, one layer, one name", r, err)
	}
	for _, img := range []model.Image{named, used, pulled} {
		if _, err := s.Get(img.ID); err != nil {
			t.Errorf("Prune removed too much: %v", err)
		}
	}
	if _, err := s.Get(dangling.ID); fault.KindOf(err) != fault.NotFound {
		t.Errorf("an image without a name is still there: %v", err)
	}
	r, err = s.Prune(inUse, true)
	if images, _ := s.List(); err != nil || len(images) != 1 || images[0].ID != used.ID || r.Blobs != 1 {
		t.Errorf("Prune of all: %+v, %v; left %v", r, err, images)
	}
}

// TestPruneKeepsLayersWhenBlind checks that layers stay if a record is unreadable.
func TestPruneKeepsLayersWhenBlind(t *testing.T) {
	s := newStore(t, Options{})
	img := importFile(t, s, "1", "one")
	blob := write(t, s.blobPath(strings.Repeat("0", 64)), []byte("x"))
	os.Remove(filepath.Join(s.dir, img.ID, recordFile))
	write(t, filepath.Join(s.dir, img.ID, recordFile), []byte("{"))
	if _, err := s.Prune(nobody, false); err == nil {
		t.Error("an unreadable record was not reported")
	}
	if _, err := os.Stat(blob); err != nil {
		t.Error("a layer was removed while a record was unreadable")
	}
	if images, err := s.List(); err != nil || len(images) != 0 {
		t.Errorf("List() = %v, %v", images, err)
	}
	importFile(t, s, "1", "one") // this repairs it
	if _, err := s.Get("one"); err != nil {
		t.Error(err)
	}
}

// TestSharedCache hard-links a cache into another home, as the end-to-end tests do.
func TestSharedCache(t *testing.T) {
	one := t.TempDir()
	s := openStore(t, one, Options{})
	img := importFile(t, s, "1", "one")
	two := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "-al", one, two).CombinedOutput(); err != nil {
		t.Fatalf("cp -al: %v %s", err, out)
	}
	other := openStore(t, two, Options{})
	if got, err := other.Get("one"); err != nil || got.ID != img.ID || !strings.HasPrefix(got.Path, two) {
		t.Errorf("the linked cache: image %+v, %v", got, err)
	}
	importFile(t, other, "2", "one")
	if got, err := s.Get("one"); err != nil || got.ID != img.ID {
		t.Errorf("a name was changed in the other cache: %s, %v", got.ID, err)
	}
	if _, err := other.Prune(nobody, true); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(img.Path); err != nil {
		t.Errorf("an image was removed from the other cache: %v", err)
	}
}

// TestKilled kills a process that is making an image, and checks the next process.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("IMAGE_TEST_DIE"); dir != "" {
		s, err := Open(dir+"/images", dir+"/blobs", slog.New(slog.DiscardHandler), Options{})
		if err != nil {
			t.Fatal(err)
		}
		b, err := s.locks.newStaging(context.Background(), s.dir)
		if err != nil {
			t.Fatal(err)
		}
		os.WriteFile(b.path(rootfsFile), []byte("half"), 0o600)
		fmt.Println("making " + b.dir)
		select {}
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), "IMAGE_TEST_DIE="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	line, err := bufio.NewReader(out).ReadString('\n')
	made, ok := strings.CutPrefix(strings.TrimSpace(line), "making ")
	if err != nil || !ok {
		t.Fatalf("%q, %v", line, err)
	}
	s := openStore(t, dir, Options{})
	if _, err := os.Stat(made); err != nil {
		t.Errorf("the work of a living process was removed: %v", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if _, err := s.Prune(nobody, false); err != nil {
		t.Error(err)
	}
	nothingLeft(t, s)
}

// TestFullDisk imports into a cache without room for the image.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m")
	testkit.Require(t, "root", err == nil, fmt.Sprintf("mounting a tmpfs: %v", err))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	s := openStore(t, dir, Options{})
	body := strings.Repeat("full ", 1<<20)
	path := write(t, filepath.Join(t.TempDir(), "x.tar"), makeTar(t, file{name: "f", body: body}))
	if _, err := s.Import(t.Context(), path, ImportOptions{}, nil); fault.KindOf(err) != fault.Unavailable || !strings.Contains(fault.HintOf(err), "space") {
		t.Errorf("got %v, hint %q; want an error that the disk is full", err, fault.HintOf(err))
	}
	h := newHub(t)
	random := make([]byte, 2<<20)
	rand.Read(random)
	ref := h.push(t, "app:1", makeImage(t, tarLayer(t, file{name: "f", body: string(random)})))
	if _, err := s.Pull(t.Context(), ref, PullOptions{}, nil); fault.KindOf(err) != fault.Unavailable || !strings.Contains(fault.HintOf(err), "space") {
		t.Errorf("got %v, hint %q; want an error that the disk is full", err, fault.HintOf(err))
	}
	nothingLeft(t, s)
}
