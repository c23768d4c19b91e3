package e2e

import (
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"banger/internal/model"
	"banger/internal/testkit"
)

// TestNamesInArchives imports archives that claim the names of other images: an id that a VM is
// pinned to, and the default image's name.
func TestNamesInArchives(t *testing.T) {
	h := warm(t)
	save := func(file, ref string, image v1.Image) string {
		t.Helper()
		tag, err := name.NewTag(ref)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(h.Dir, file)
		if err := tarball.WriteToFile(path, tag, image); err != nil {
			t.Fatal(err)
		}
		return path
	}
	evil, err := mutate.Config(helloImage(t), v1.Config{Env: []string{"GREETING=evil", "PATH=/"}})
	if err != nil {
		t.Fatal(err)
	}
	ok(t, h, "image", "import", save("mine.tar", "mine:1", helloImage(t)))
	pinned := decode[model.Image](t, h, "image", "show", "mine:1")
	ok(t, h, "vm", "create", "--name", "box", "--image", "mine:1", "--net", "none")

	t.Run("an id", func(t *testing.T) {
		id := decode[model.Image](t, h, "image", "import", save("evil.tar", pinned.ID, evil)).ID
		equal(t, "the image with the pinned id", decode[model.Image](t, h, "image", "show", pinned.ID).ID, pinned.ID)
		fails(t, h, []string{"image", "tag", id, pinned.ID}, "hexadecimal")
		fails(t, h, []string{"vm", "create", "--name", "0123456789ab"}, "hexadecimal")
		ok(t, h, "vm", "start", "box")
		has(t, ok(t, h, "exec", "box", "--", "/hello", "from", "box"), "args from box\n", "greeting moin\n")
		ok(t, h, "rm", "-f", "box")
	})
	t.Run("the default image's name", func(t *testing.T) {
		before := decode[model.Image](t, h, "image", "show", testkit.Image).ID
		path := save("default.tar", testkit.Image, evil)
		r := h.Banger(t, "image", "import", path)
		equal(t, "exit status", r.Code, 0)
		has(t, r.Stderr, testkit.Image, "banger image tag")
		equal(t, "the default image", decode[model.Image](t, h, "image", "show", testkit.Image).ID, before)

		r = h.Banger(t, "image", "import", "--name", testkit.Image, path)
		equal(t, "exit status", r.Code, 0)
		has(t, r.Stderr, "now names", "before, it named "+before[:12])
		equal(t, "it moved", decode[model.Image](t, h, "image", "show", testkit.Image).ID != before, true)
		ok(t, h, "image", "tag", before[:12], testkit.Image)
		equal(t, "the default image", decode[model.Image](t, h, "image", "show", testkit.Image).ID, before)
	})
}

// TestForeignSnapshot gives a snapshot to another home, which uses its memory only if asked.
func TestForeignSnapshot(t *testing.T) {
	h, there := warm(t), testkit.NewWarmHome(t, bin)
	ok(t, h, "run", "-d", "--name", "box", "--memory", "256M")
	ok(t, h, "exec", "box", "--", "sh", "-c", "echo disk >/opt/file; echo memory >/dev/shm/memory; sync")
	ok(t, h, "snapshot", "create", "box", "--name", "live")
	has(t, ok(t, h, "snapshot", "show", "live"), "yes: this home made it")
	file := filepath.Join(t.TempDir(), "live.snap")
	ok(t, h, "snapshot", "export", "live", "-o", file)
	ok(t, h, "rm", "-f", "box")

	r := there.Banger(t, "snapshot", "import", file)
	equal(t, "exit status", r.Code, 0)
	has(t, r.Stderr, "it holds VM box, image "+testkit.Image, "256M of memory", "no seal of this home", "--trust-memory")
	r = there.Banger(t, "snapshot", "restore", "live", "--name", "cold")
	equal(t, "exit status", r.Code, 0)
	has(t, r.Stderr, "only its disks were used")
	equal(t, "state", show(t, there, "cold").State, model.Stopped)
	fails(t, there, []string{"vm", "restore", "cold", "live"}, "--disks-only", "--trust-memory")
	ok(t, there, "vm", "start", "cold")
	equal(t, "files", ok(t, there, "exec", "cold", "--", "sh", "-c", "cat /opt/file; ls /dev/shm"), "disk\n")
	ok(t, there, "snapshot", "restore", "live", "--name", "warm", "--trust-memory")
	equal(t, "files", ok(t, there, "exec", "warm", "--", "cat", "/opt/file", "/dev/shm/memory"), "disk\nmemory\n")
	ok(t, there, "rm", "-f", "cold", "warm")
}
