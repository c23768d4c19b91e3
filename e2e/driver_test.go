package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/model"
	"banger/internal/testkit"
)

// TestDriver checks the machine's process from outside.
func TestDriver(t *testing.T) {
	h := warm(t)
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)
	ok(t, h, "run", "-d", "--name", "box")
	vm := show(t, h, "box")
	pid := vm.Runtime.PID
	args := cmdline(t, pid)

	t.Run("command line", func(t *testing.T) {
		has(t, strings.Join(args, "\n"), "banger-"+vm.ID, "-nodefaults", "-no-user-config", "-sandbox\non", "microvm", "virtio-blk-device")
		kernel := args[slices.Index(args, "-append")+1]
		if emulated := vm.Runtime.Accel == "tcg"; emulated != strings.Contains(kernel, "tsc_early_khz=") {
			t.Errorf("accelerator %s and kernel arguments %s", vm.Runtime.Accel, kernel)
		}
	})
	t.Run("own session, the caller's user", func(t *testing.T) {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		after := string(stat[strings.LastIndexByte(string(stat), ')')+2:])
		if session := strings.Fields(after)[3]; session != strconv.Itoa(pid) { // proc(5): field 6
			t.Errorf("session %s, pid %d", session, pid)
		}
		info, err := os.Stat("/proc/" + strconv.Itoa(pid))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "uid", int(info.Sys().(*syscall.Stat_t).Uid), h.UID)
	})
	// The bound of the log has tests of its own, because an emulated serial line is slow.
	t.Run("a busy console", func(t *testing.T) {
		ok(t, h, "exec", "box", "--", "sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x | fold -w 100 >/dev/console; echo last line >/dev/console")
		// The line arrives after the command has ended.
		testkit.WaitFor(t, time.Minute, "the last line is in the log", func() bool {
			return strings.Contains(ok(t, h, "logs", "box"), "last line")
		})
	})
	t.Run("a machine that dies by itself", func(t *testing.T) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		testkit.WaitFor(t, 20*time.Second, "the VM is known not to run", func() bool { return !show(t, h, "box").State.Live() })
		ok(t, h, "vm", "start", "box")
	})
	t.Run("a guest that panics", func(t *testing.T) {
		h.Banger(t, "exec", "--timeout", "20s", "box", "--", "sh", "-c", "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger")
		testkit.WaitFor(t, 20*time.Second, "the VM is known not to run", func() bool { return !show(t, h, "box").State.Live() })
		vm := show(t, h, "box")
		if vm.LastError == nil || !strings.Contains(vm.LastError.Msg, "panic") {
			t.Errorf("the record does not say why: %+v", vm.LastError)
		}
	})
	t.Run("a guest that powers off", func(t *testing.T) {
		ok(t, h, "vm", "start", "box")
		h.Banger(t, "exec", "box", "--", "sh", "-c", "sync; echo 1 >/proc/sys/kernel/sysrq; echo o >/proc/sysrq-trigger; sleep 20")
		testkit.WaitFor(t, 20*time.Second, "the VM is stopped", func() bool { return show(t, h, "box").State == model.Stopped })
	})
	ok(t, h, "rm", "box")
	h.CheckNoLeaks(t, before)
}

// cmdline returns a process's arguments.
func cmdline(t *testing.T, pid int) []string {
	t.Helper()
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
}

// TestUnprivileged runs a VM as an ordinary user.
func TestUnprivileged(t *testing.T) {
	testkit.Require(t, "root", os.Geteuid() == 0, "only root can become another user")
	h := warm(t)
	ownPrograms(t, h)
	h.Chown(t, 61234)
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)
	equal(t, "stdout", ok(t, h, "run", "--rm", "--", "sh", "-c", "id -u; hostname >/dev/null && echo fine"), "0\nfine\n")
	h.CheckNoLeaks(t, before)
}

// ownPrograms copies the programs and the cache into the home. Another user cannot read the
// originals, and hard links would keep their owner.
func ownPrograms(t *testing.T, h *testkit.Home) {
	t.Helper()
	if err := h.Shell("cp -a " + h.Bin + " bin && cp -a --sparse=always cache own && rm -r cache && mv own cache && chmod 711 ."); err != nil {
		t.Fatal(err)
	}
	h.Bin = filepath.Join(h.Dir, "bin")
	h.Setenv("PATH", h.Bin+":"+os.Getenv("PATH"))
}
