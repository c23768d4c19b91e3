package e2e

import (
	"context"
	"database/sql"
	"encoding/json"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite" // the database's driver

	"banger/internal/api"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/testkit"
)

// TestCrashThawed kills the daemon when a guest that continues from memory has written to its disk,
// and before the record says that the VM runs. The next daemon adopts the machine.
func TestCrashThawed(t *testing.T) {
	h := forking(t, "0")
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)
	ok(t, h, "run", "-d", "--name", "box", "--memory", "256M", "--cold")
	ok(t, h, "exec", "box", "--", "sh", "-c", "echo kept >/dev/shm/memory; "+ticker)
	ok(t, h, "exec", "box", "--", "sh", "-c", "nohup sh -c 'while :; do sync; sleep 0.1; done' >/dev/null 2>&1 &")
	ok(t, h, "snapshot", "create", "box", "--name", "base")
	t.Run("resume", func(t *testing.T) {
		ok(t, h, "suspend", "box")
		killThawed(t, h, resumeBox)
	})
	t.Run("restore", func(t *testing.T) {
		killThawed(t, h, func(ctx context.Context, c *api.Client, report step.Reporter) error {
			_, err := c.Snapshots().Restore(ctx, "base", model.Restore{Into: "box"}, api.SnapshotRestore{Force: true}, report)
			return err
		})
	})
	ok(t, h, "suspend", "box")
	ok(t, h, "resume", "box")
	goesOn(t, h, "box")
	ok(t, h, "snapshot", "delete", "base")
	ok(t, h, "rm", "-f", "box")
	ok(t, h, "template", "prune", "--all", "--yes")
	h.CheckNoLeaks(t, before)
}

// killThawed makes a call that starts the VM "box" from memory. The daemon cannot record that the
// VM runs, because the test locks the database. It is killed when the guest has written to a disk.
func killThawed(t *testing.T, h *testkit.Home, call func(context.Context, *api.Client, step.Reporter) error) {
	t.Helper()
	id := show(t, h, "box").ID
	db, err := sql.Open("sqlite", filepath.Join(h.Dir, "state", "banger.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	disks, _ := filepath.Glob(filepath.Join(h.Dir, "state", "vms", id, "*.ext4"))
	written := func() (times []time.Time) {
		for _, path := range disks {
			if info, err := os.Stat(path); err == nil {
				times = append(times, info.ModTime())
			}
		}
		return times
	}
	pid := daemonPID(t, h)
	var stored model.VM
	killed := false
	err = call(t.Context(), api.Dial(filepath.Join(h.Dir, "run", "bangerd.sock")), func(e step.Event) {
		if killed || e.Step != "agent" || e.Phase != step.Started {
			return
		}
		killed = true
		if _, err := db.Exec("BEGIN IMMEDIATE"); err != nil {
			t.Error(err)
		}
		was := written()
		testkit.WaitFor(t, 20*time.Second, "the guest has written to a disk", func() bool {
			for i, now := range written() {
				if !now.Equal(was[i]) {
					return true
				}
			}
			return false
		})
		_ = syscall.Kill(pid, syscall.SIGKILL)
		var doc []byte
		if err := db.QueryRow("SELECT doc FROM vms WHERE id = ?", id).Scan(&doc); err != nil {
			t.Error(err)
		} else if err := json.Unmarshal(doc, &stored); err != nil {
			t.Error(err)
		}
	})
	if !killed || err == nil {
		t.Fatalf("the call ended without the step agent, or although the daemon was killed: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	awaitDeath(t, h)
	equal(t, "the stored state", stored.State, model.Starting)
	var vm model.VM
	testkit.WaitFor(t, time.Minute, "the VM's state is settled", func() bool {
		vm = show(t, h, "box")
		return settled(vm)
	})
	if vm.State != model.Running {
		t.Fatalf("the VM is %s: %+v", vm.State, vm.LastError)
	}
	equal(t, "the process of the machine", vm.Runtime.PID, stored.Runtime.PID)
	equal(t, "memory", ok(t, h, "exec", "box", "--", "cat", "/dev/shm/memory"), "kept\n")
	goesOn(t, h, "box")
}
