package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/testkit"
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
	has(t, h.Banger(t, "doctor").Stdout, "✗ records ", "banger.db is missing")
	moveDatabase(t, elsewhere, state)
	has(t, h.Banger(t, "doctor").Stdout, "✓ records ")
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

	pid := machinePID(t, h, "box") // a running VM continues
	ok(t, h, "daemon", "stop")
	moveDatabase(t, state, t.TempDir())
	ok(t, h, "daemon", "recover")
	equal(t, "pid of the machine", machinePID(t, h, "box"), pid)
	equal(t, "output", ok(t, h, "exec", "box", "--", "cat", "/root/notes"), "mine\n")
	has(t, ok(t, h, "ps"), "box")
	ok(t, h, "stop", "box")
	ok(t, h, "start", "box")

	ok(t, h, "stop", "box") // a copy that cannot be read, and no backup: the exit status says so
	ok(t, h, "daemon", "stop")
	moveDatabase(t, state, elsewhere)
	backups, dir := filepath.Join(state, "backups"), filepath.Join(state, "vms", before.ID)
	record := filepath.Join(dir, "record.json")
	whole, err := os.ReadFile(record)
	if err := errors.Join(err, os.RemoveAll(backups), os.WriteFile(record, []byte("torn"), 0o600)); err != nil {
		t.Fatal(err)
	}
	has(t, code(t, h, 65, "daemon", "recover", "--dry-run").Stderr, "could not be brought back: "+before.ID)
	code(t, h, 65, "daemon", "recover")
	if err := os.WriteFile(record, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	ok(t, h, "daemon", "recover")
	ok(t, h, "start", "box")
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

// TestDeleteOnFullDisk stops and deletes VMs on a disk without a free byte, with and without the
// reserve, and kills the daemon after each deletion. No VM comes back.
func TestDeleteOnFullDisk(t *testing.T) {
	testkit.Require(t, "root", os.Geteuid() == 0, "only root can mount a small file system")
	h := warm(t)
	state := filepath.Join(h.Dir, "state")
	if err := errors.Join(os.Mkdir(state, 0o700), unix.Mount("tmpfs", state, "tmpfs", 0, "mode=700,size=256m")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.Banger(t, "daemon", "stop")
		if err := unix.Unmount(state, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ok(t, h, "vm", "create", "--name", "z")
	ok(t, h, "run", "-d", "--name", "v", "--memory", "128M")
	fill := func() {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(state, "filler"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	fill()
	// whether the guest has something to write decides whether the stop has an error to report
	if r := h.Banger(t, "stop", "--timeout", "5s", "v"); r.Code != 0 && r.Code != fault.Unavailable.ExitCode() {
		t.Errorf("stopping a VM on a full disk: exit %d: %s", r.Code, r.Stderr)
	}
	equal(t, "state of v", show(t, h, "v").State, model.Stopped)
	fill()
	ok(t, h, "rm", "z")
	fill()
	must(t, syscall.Kill(daemonPID(t, h), syscall.SIGKILL))
	awaitDeath(t, h)
	ok(t, h, "daemon", "start") // the disk is still full
	ok(t, h, "rm", "v")
	must(t, syscall.Kill(daemonPID(t, h), syscall.SIGKILL))
	awaitDeath(t, h)
	must(t, os.Remove(filepath.Join(state, "filler")))
	ok(t, h, "vm", "create", "--name", "w")
	must(t, os.Truncate(filepath.Join(state, "reserve"), 0))
	fill()
	h.Banger(t, "rm", "w") // may be unable to record it
	must(t, syscall.Kill(daemonPID(t, h), syscall.SIGKILL))
	awaitDeath(t, h)
	must(t, os.Remove(filepath.Join(state, "filler")))
	equal(t, "VMs after the deletions", len(vms(t, h)), 0)
	if left, err := os.ReadDir(filepath.Join(state, "vms")); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}
