package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"banger/internal/model"
)

// TestLostDatabase moves the database away. Without it the daemon refuses to start, and no file of
// a VM is lost: not if the database comes back, and not if it stays away.
func TestLostDatabase(t *testing.T) {
	h := warm(t)
	ok(t, h, "vm", "create", "--name", "box", "--memory", "256M", "--label", "team=blue")
	ok(t, h, "vm", "start", "box")
	ok(t, h, "exec", "box", "--", "sh", "-c", "echo mine >/root/notes; echo theirs >/etc/notes")
	ok(t, h, "vm", "stop", "box")
	before := show(t, h, "box")
	ok(t, h, "daemon", "stop")
	state, elsewhere := filepath.Join(h.Dir, "state"), t.TempDir()
	moveDatabase(t, state, elsewhere)
	fails(t, h, []string{"ps"}, "banger.db", "daemon recover")
	moveDatabase(t, elsewhere, state)
	equal(t, "id after the database came back", show(t, h, "box").ID, before.ID)
	ok(t, h, "daemon", "stop")
	moveDatabase(t, state, elsewhere)
	fails(t, h, []string{"ps"}, "banger.db", "daemon recover")

	plan := decode[model.Rescue](t, h, "daemon", "recover", "--dry-run")
	equal(t, "the database", plan.Database, model.DatabaseMissing)
	if _, err := os.Stat(filepath.Join(state, "banger.db")); err == nil {
		t.Error("a dry run has made a database")
	}
	done := decode[model.Rescue](t, h, "daemon", "recover")
	if len(done.VMs) != 1 || done.VMs[0].Name != "box" || done.VMs[0].Outcome != model.Rebuilt {
		t.Fatalf("recovered %+v", done)
	}
	after := show(t, h, "box")
	equal(t, "id", after.ID, before.ID)
	equal(t, "image", after.Spec.ImageID, before.Spec.ImageID)
	equal(t, "label", after.Spec.Labels["team"], "blue")
	code(t, h, 75, "daemon", "recover") // the daemon runs
	ok(t, h, "vm", "start", "box")
	equal(t, "/root", ok(t, h, "exec", "box", "--", "cat", "/root/notes"), "mine\n")
	equal(t, "/", ok(t, h, "exec", "box", "--", "cat", "/etc/notes"), "theirs\n")
	ok(t, h, "rm", "--force", "box")
}

func moveDatabase(t *testing.T, from, to string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(from, "banger.db*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no database in %s: %v", from, err)
	}
	for _, file := range files {
		if err := os.Rename(file, filepath.Join(to, filepath.Base(file))); err != nil {
			t.Fatal(err)
		}
	}
}
