package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/testkit"
)

// ticker counts tenths of a second in /root/n without end.
const ticker = `nohup sh -c 'n=0; while :; do n=$((n+1)); echo $n >/root/n.part; mv /root/n.part /root/n; sleep 0.1; done' >/dev/null 2>&1 & until [ -s /root/n ]; do sleep 0.1; done`

// goesOn waits until the ticker in a VM has counted further.
func goesOn(t *testing.T, h *testkit.Home, name string) {
	t.Helper()
	was := ok(t, h, "exec", name, "--", "cat", "/root/n")
	testkit.WaitFor(t, time.Minute, "the process in "+name+" goes on", func() bool { return ok(t, h, "exec", name, "--", "cat", "/root/n") != was })
}

// TestSuspend pauses and suspends a VM. It continues where it was, also under another daemon.
func TestSuspend(t *testing.T) {
	h := warm(t)
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)
	ok(t, h, "run", "-d", "--name", "box", "--memory", "256M")
	ok(t, h, "exec", "box", "--", "sh", "-c", "echo kept >/dev/shm/memory; "+ticker)
	t.Run("pause", func(t *testing.T) {
		ok(t, h, "pause", "box")
		equal(t, "state", show(t, h, "box").State, model.Paused)
		fails(t, h, []string{"exec", "box", "--", "true"}, "paused", "resume")
		ok(t, h, "pause", "box")
		ok(t, h, "resume", "box")
		goesOn(t, h, "box")
		checkClock(t, h, "box")
	})
	t.Run("suspend", func(t *testing.T) {
		ok(t, h, "suspend", "box")
		vm := show(t, h, "box")
		if vm.State != model.Suspended || vm.Runtime != nil {
			t.Fatalf("%s, %+v", vm.State, vm.Runtime)
		}
		fails(t, h, []string{"exec", "box", "--", "true"}, "suspended", "resume")
		fails(t, h, []string{"vm", "set", "box", "--memory", "512M"}, "suspended")
		ok(t, h, "daemon", "stop")
		ok(t, h, "resume", "box")
		equal(t, "memory", ok(t, h, "exec", "box", "--", "cat", "/dev/shm/memory"), "kept\n")
		goesOn(t, h, "box")
		checkClock(t, h, "box")
	})
	t.Run("a command under way", func(t *testing.T) {
		begin := func() <-chan testkit.Result {
			ok(t, h, "exec", "box", "--", "rm", "-f", "/root/begun", "/root/end")
			done := make(chan testkit.Result, 1)
			go func() {
				done <- h.Banger(t, "exec", "box", "--", "sh", "-c", "touch /root/begun; until [ -e /root/end ]; do sleep 0.1; done; echo ended")
			}()
			testkit.WaitFor(t, time.Minute, "the command runs", func() bool { return h.Banger(t, "exec", "box", "--", "test", "-e", "/root/begun").Code == 0 })
			return done
		}
		waits := begin()
		ok(t, h, "pause", "box")
		ok(t, h, "resume", "box")
		ok(t, h, "exec", "box", "--", "touch", "/root/end")
		if r := <-waits; r.Code != 0 || r.Stdout != "ended\n" {
			t.Errorf("after a pause: %d, %q, %s", r.Code, r.Stdout, r.Stderr)
		}
		cut := begin()
		ok(t, h, "suspend", "box")
		if r := <-cut; r.Code == 0 || !strings.Contains(r.Stderr, "was suspended meanwhile") {
			t.Errorf("after a suspension: %d, %q, %s", r.Code, r.Stdout, r.Stderr)
		}
		ok(t, h, "resume", "box")
	})
	t.Run("a paused one survives the daemon", func(t *testing.T) {
		ok(t, h, "pause", "box")
		killDaemon(t, h)
		equal(t, "state", show(t, h, "box").State, model.Paused)
		ok(t, h, "suspend", "box")
		ok(t, h, "resume", "box")
		goesOn(t, h, "box")
	})
	t.Run("damaged memory", func(t *testing.T) {
		ok(t, h, "suspend", "box")
		memory := filepath.Join(h.Dir, "state/vms", show(t, h, "box").ID, "suspended/memory")
		if err := os.Truncate(memory, 1<<20); err != nil {
			t.Fatal(err)
		}
		fails(t, h, []string{"resume", "box"}, "memory", "kill")
		equal(t, "state", show(t, h, "box").State, model.Suspended)
		ok(t, h, "vm", "kill", "box")
		ok(t, h, "vm", "start", "box")
		ok(t, h, "exec", "box", "--", "cat", "/root/n")
	})
	t.Run("stop a suspended one", func(t *testing.T) {
		ok(t, h, "suspend", "box")
		ok(t, h, "vm", "stop", "box")
		equal(t, "state", show(t, h, "box").State, model.Stopped)
	})
	t.Run("idle", func(t *testing.T) {
		ok(t, h, "vm", "set", "box", "--idle-suspend", "2s")
		ok(t, h, "vm", "start", "box")
		ok(t, h, "exec", "box", "--", "sh", "-c", "echo kept >/dev/shm/memory")
		testkit.WaitFor(t, 2*time.Minute, "the VM that nobody uses is suspended", func() bool { return show(t, h, "box").State == model.Suspended })
		equal(t, "memory", ok(t, h, "exec", "box", "--", "cat", "/dev/shm/memory"), "kept\n")
		equal(t, "state", show(t, h, "box").State, model.Running)
		testkit.WaitFor(t, 2*time.Minute, "the VM is suspended again", func() bool { return show(t, h, "box").State == model.Suspended })
		equal(t, "memory by ssh", ok(t, h, "ssh", "box", "cat", "/dev/shm/memory"), "kept\n")
		equal(t, "state", show(t, h, "box").State, model.Running)
		ok(t, h, "pause", "box")
		fails(t, h, []string{"ssh", "box", "true"}, "paused", "resume")
		ok(t, h, "resume", "box")
	})
	ok(t, h, "rm", "-f", "box")
	h.CheckNoLeaks(t, before)
}

// TestSnapshots saves VMs and makes other VMs from the snapshots.
func TestSnapshots(t *testing.T) {
	h := warm(t)
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)
	ok(t, h, "run", "-d", "--name", "box", "--memory", "256M")
	ok(t, h, "exec", "box", "--", "sh", "-c", "echo one >/opt/file; echo memory >/dev/shm/memory; "+ticker)
	ok(t, h, "snapshot", "create", "box", "--name", "live")
	fails(t, h, []string{"snapshot", "create", "box", "--name", "live"}, "live")
	ok(t, h, "exec", "box", "--", "sh", "-c", "echo two >/opt/file")
	goesOn(t, h, "box")
	t.Run("as new VMs", func(t *testing.T) {
		ok(t, h, "snapshot", "restore", "live", "--name", "copy")
		equal(t, "files", ok(t, h, "exec", "copy", "--", "cat", "/opt/file", "/dev/shm/memory"), "one\nmemory\n")
		goesOn(t, h, "copy")
		differ(t, h, []string{"box", "copy"})
		checkClock(t, h, "copy")
		ok(t, h, "snapshot", "restore", "live", "--name", "booted", "--disks-only")
		equal(t, "state", show(t, h, "booted").State, model.Stopped)
		ok(t, h, "vm", "start", "booted")
		equal(t, "file", ok(t, h, "exec", "booted", "--", "sh", "-c", "cat /opt/file; ls /dev/shm"), "one\n")
		ok(t, h, "rm", "-f", "copy", "booted")
	})
	t.Run("in place", func(t *testing.T) {
		fails(t, h, []string{"vm", "restore", "box", "live"}, "force")
		ok(t, h, "vm", "restore", "box", "live", "--force")
		equal(t, "files", ok(t, h, "exec", "box", "--", "cat", "/opt/file", "/dev/shm/memory", "/etc/hostname"), "one\nmemory\nbox\n")
		goesOn(t, h, "box")
	})
	t.Run("of a stopped VM", func(t *testing.T) {
		ok(t, h, "vm", "stop", "box")
		ok(t, h, "snapshot", "create", "box", "--name", "cold")
		snap := decode[model.Snapshot](t, h, "snapshot", "show", "cold")
		equal(t, "kind", snap.Kind, model.SnapshotDisk)
		ok(t, h, "rm", "box")
		ok(t, h, "snapshot", "restore", "cold", "--name", "again")
		ok(t, h, "vm", "start", "again")
		equal(t, "file", ok(t, h, "exec", "again", "--", "cat", "/opt/file"), "one\n")
		ok(t, h, "rm", "-f", "again")
	})
	t.Run("export and import", func(t *testing.T) {
		dir := t.TempDir()
		file := filepath.Join(dir, "live.snap")
		ok(t, h, "snapshot", "export", "live", "-o", file)
		ok(t, h, "snapshot", "import", file, "--name", "back")
		ok(t, h, "snapshot", "restore", "back", "--name", "moved")
		equal(t, "memory", ok(t, h, "exec", "moved", "--", "cat", "/dev/shm/memory"), "memory\n")
		ok(t, h, "rm", "-f", "moved")
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		for _, bad := range []struct{ name, text, word string }{
			{"damaged", string(data), "damaged"},
			{"cut-off", string(data[:len(data)/3]), "cut off"},
			{"foreign", "something else", "not an exported snapshot"},
		} {
			file := filepath.Join(dir, bad.name)
			if err := os.WriteFile(file, []byte(bad.text), 0o600); err != nil {
				t.Fatal(err)
			}
			fails(t, h, []string{"snapshot", "import", file}, bad.word)
		}
	})
	t.Run("what a snapshot needs stays", func(t *testing.T) {
		fails(t, h, []string{"image", "delete", testkit.Image}, "snapshot")
	})
	t.Run("export of a damaged one", func(t *testing.T) {
		snap := decode[model.Snapshot](t, h, "snapshot", "show", "back")
		memory, err := os.OpenFile(filepath.Join(h.Dir, "state/snapshots", snap.ID, "memory"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer memory.Close()
		if _, err := memory.WriteAt([]byte("not what the guest had there"), int64(snap.Memory)/2); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		r := fails(t, h, []string{"snapshot", "export", "back", "-o", filepath.Join(dir, "back.snap")}, "memory", "damaged")
		equal(t, "exit status", r.Code, fault.Damaged.ExitCode())
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("left over: %v, %v", left, err)
		}
	})
	ok(t, h, "snapshot", "delete", "live", "cold", "back")
	h.CheckNoLeaks(t, before)
}
