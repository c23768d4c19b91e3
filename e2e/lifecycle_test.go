package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/testkit"
)

// TestLifecycle takes one VM through its life.
func TestLifecycle(t *testing.T) {
	h := warm(t)
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)

	ok(t, h, "vm", "create", "--name", "one", "--memory", "384M", "--disk-size", "1G", "--work-disk-size", "512M")
	equal(t, "state after create", show(t, h, "one").State, model.Stopped)
	fails(t, h, []string{"vm", "create", "--name", "one"}, "one")
	fails(t, h, []string{"vm", "exec", "one", "--", "true"}, "one")

	t.Run("start twice", func(t *testing.T) {
		ok(t, h, "vm", "start", "one")
		vm := show(t, h, "one")
		equal(t, "state", vm.State, model.Running)
		r := code(t, h, 0, "vm", "start", "one")
		has(t, r.Stdout+r.Stderr, "running")
		equal(t, "pid", machinePID(t, h, "one"), vm.Runtime.PID)
	})
	t.Run("timeline", func(t *testing.T) {
		vm := show(t, h, "one")
		if vm.Boot == nil || len(vm.Boot.Steps) < 3 {
			t.Fatalf("the boot has no timeline: %+v", vm.Boot)
		}
		text := ok(t, h, "vm", "show", "--timeline", "one")
		for _, step := range vm.Boot.Steps {
			has(t, text, step.Name)
			if step.Duration < 0 || step.Offset < 0 {
				t.Errorf("step %s: offset %v, duration %v", step.Name, step.Offset, step.Duration)
			}
		}
	})
	t.Run("files survive a stop", func(t *testing.T) {
		ok(t, h, "vm", "exec", "one", "--", "sh", "-c", "echo system >/opt/file; echo work >/root/file; rm /etc/issue")
		ok(t, h, "vm", "stop", "one")
		equal(t, "state", show(t, h, "one").State, model.Stopped)
		ok(t, h, "vm", "stop", "one")
		ok(t, h, "vm", "start", "one")
		out := ok(t, h, "vm", "exec", "one", "--", "sh", "-c", "cat /opt/file /root/file; ls /etc/issue 2>/dev/null || echo gone; dmesg | grep -i -e recovery -e orphan || echo clean")
		equal(t, "stdout", out, "system\nwork\ngone\nclean\n")
	})
	t.Run("set", func(t *testing.T) { testSet(t, h) })
	t.Run("rename", func(t *testing.T) {
		ok(t, h, "vm", "rename", "one", "uno")
		fails(t, h, []string{"vm", "show", "one"}, "one")
		ok(t, h, "vm", "exec", "uno", "--", "true")
		ok(t, h, "vm", "rename", "uno", "one")
	})
	t.Run("logs", func(t *testing.T) {
		ok(t, h, "vm", "exec", "one", "--", "sh", "-c", "echo to the console >/dev/console")
		has(t, ok(t, h, "logs", "one"), "to the console")
		cmd, follow := h.Start(t, "vm", "logs", "-f", "one")
		follow.Expect(t, "to the console")
		ok(t, h, "vm", "exec", "one", "--", "sh", "-c", "echo and more >/dev/console")
		follow.Expect(t, "and more")
		signal(t, cmd, os.Interrupt)
		follow.Wait(t)
		_, follow = h.Start(t, "vm", "logs", "-f", "one")
		follow.Expect(t, "and more")
		ok(t, h, "vm", "stop", "one")
		equal(t, "exit status", follow.Wait(t), 0)
		ok(t, h, "vm", "start", "one")
	})
	t.Run("stats", func(t *testing.T) {
		all := decode[[]model.Stats](t, h, "vm", "stats", "one")
		if len(all) != 1 {
			t.Fatalf("one VM, and %d stats", len(all))
		}
		stats := all[0]
		if stats.Memory < 10*model.MiB || stats.CPU <= 0 || stats.Disk <= 0 || stats.Guest == nil || stats.Guest.MemTotal < 200<<20 {
			t.Errorf("stats make no sense: %+v", stats)
		}
	})
	t.Run("restart", func(t *testing.T) {
		pid := machinePID(t, h, "one")
		ok(t, h, "vm", "restart", "one")
		if vm := show(t, h, "one"); vm.State != model.Running || vm.Runtime.PID == pid {
			t.Errorf("%s with pid %d after a restart, pid was %d", vm.State, vm.Runtime.PID, pid)
		}
	})
	t.Run("kill", func(t *testing.T) {
		ok(t, h, "vm", "kill", "one")
		testkit.WaitFor(t, 20*time.Second, "the VM is not running", func() bool { return show(t, h, "one").State != model.Running })
		ok(t, h, "vm", "start", "one")
		equal(t, "file", ok(t, h, "vm", "exec", "one", "--", "cat", "/opt/file"), "system\n")
		ok(t, h, "vm", "kill", "--signal", "TERM", "one")
		testkit.WaitFor(t, 20*time.Second, "the VM is not running", func() bool { return show(t, h, "one").State != model.Running })
	})
	ok(t, h, "vm", "delete", "one")
	fails(t, h, []string{"vm", "show", "one"}, "one")
	h.CheckNoLeaks(t, before)
}

// testSet makes changes that take effect now, and changes that take effect at the next start.
func testSet(t *testing.T, h *testkit.Home) {
	size := func() string {
		return strings.TrimSpace(ok(t, h, "vm", "exec", "one", "--", "df", "-m", "--output=size", "/root"))
	}
	small := size()
	changed := decode[model.Changed](t, h, "vm", "set", "one", "--vcpu", "1", "--memory", "320M", "--env", "COLOUR=green", "--work-disk-size", "1G", "--disk-size", "2G")
	has(t, strings.Join(changed.Pending, " "), "vcpus", "memory")
	has(t, strings.Join(changed.Applied, " "), "disk_size")
	if big := size(); big == small {
		t.Errorf("/root has still %s", big)
	}
	fails(t, h, []string{"vm", "set", "one", "--disk-size", "512M"}, "grow")
	text := h.Banger(t, "vm", "set", "one", "--vcpu", "2")
	has(t, text.Stdout+text.Stderr, "next start")
	ok(t, h, "vm", "set", "one", "--vcpu", "1")
	ok(t, h, "vm", "restart", "one")
	equal(t, "pending", len(show(t, h, "one").Pending), 0)
	out := ok(t, h, "vm", "exec", "one", "--", "sh", "-c", `nproc; echo $COLOUR; awk '/MemTotal/ {print ($2 < 330000)}' /proc/meminfo; df -m --output=size / | tail -n 1`)
	matches(t, out, `^1\ngreen\n1\n *(1[5-9]|20)\d\d\n$`)
}

// TestStopSavesData stops a guest with a program that takes long to save its data. It is saved if
// there is time, and otherwise a warning and the record say that it may be lost.
func TestStopSavesData(t *testing.T) {
	h := warm(t)
	ok(t, h, "run", "-d", "--name", "db", "--memory", "128M")
	serve := func(onTerm string) {
		t.Helper()
		script := `trap "` + onTerm + `" TERM; echo $$ >/run/service; while :; do sleep 0.1; done`
		ok(t, h, "exec", "db", "--", "sh", "-c", "nohup sh -c '"+script+"' >/dev/null 2>&1 & until [ -s /run/service ]; do sleep 0.1; done")
	}
	serve("sleep 7; echo saved >/root/data; exit")
	r := code(t, h, 0, "stop", "--timeout", "2m", "db")
	if strings.Contains(r.Stderr, "warning") {
		t.Errorf("the stop warns: %s", r.Stderr)
	}
	if f := show(t, h, "db").LastError; f != nil {
		t.Errorf("the last error is %+v", f)
	}
	ok(t, h, "start", "db")
	equal(t, "the data", ok(t, h, "exec", "db", "--", "cat", "/root/data"), "saved\n")

	serve("") // ignores the signal
	r = code(t, h, 0, "stop", "--timeout", "8s", "db")
	has(t, r.Stderr, "warning: db: ", "may not have saved")
	vm := show(t, h, "db")
	equal(t, "state", vm.State, model.Stopped)
	if vm.LastError == nil || vm.LastError.Step != step.PowerOff {
		t.Fatalf("the last error is %+v", vm.LastError)
	}
	has(t, ok(t, h, "vm", "show", "db"), "may not have saved", "--timeout")
	ok(t, h, "start", "db")
	serve("")
	has(t, code(t, h, 0, "vm", "restart", "--timeout", "15s", "db").Stderr, "warning: db: ", "may not have saved")
	if f := show(t, h, "db").LastError; f != nil {
		t.Errorf("while it runs, the last error is %+v", f)
	}
	ok(t, h, "rm", "-f", "db")
}

// TestStopSlowGuest stops a guest that does not react.
func TestStopSlowGuest(t *testing.T) {
	h := warm(t)
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)
	ok(t, h, "run", "-d", "--name", "slow")
	// A stopped agent (process 1 of this image) reacts to no request and no power button.
	pid := machinePID(t, h, "slow")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r := code(t, h, fault.Unavailable.ExitCode(), "vm", "stop", "--timeout", "1s", "slow")
	has(t, r.Stderr, "error: VM slow was ended: the guest may not have saved its data")
	equal(t, "how often the stop says so", strings.Count(r.Stderr, "may not have saved"), 1)
	equal(t, "state", show(t, h, "slow").State, model.Stopped)
	ok(t, h, "rm", "slow")
	h.CheckNoLeaks(t, before)
}

// TestFailedStart makes a start fail for a cause outside of banger, and then removes the cause.
func TestFailedStart(t *testing.T) {
	h := warm(t)
	ok(t, h, "daemon", "start")
	ok(t, h, "vm", "create", "--name", "poor")
	before := h.Snapshot(t)
	kernel := decode[model.Kernel](t, h, "kernel", "show", testkit.Kernel)
	if err := os.Rename(kernel.Vmlinux, kernel.Vmlinux+".away"); err != nil {
		t.Fatal(err)
	}
	fails(t, h, []string{"vm", "start", "poor"})
	vm := show(t, h, "poor")
	equal(t, "state", vm.State, model.Failed)
	if vm.LastError == nil || vm.LastError.Step == "" || vm.LastError.Msg == "" || vm.LastError.Log == "" {
		t.Fatalf("the error does not say step, reason and log: %+v", vm.LastError)
	}
	has(t, ok(t, h, "vm", "show", "poor"), "error", vm.LastError.Step, vm.LastError.Log)
	h.CheckNoLeaks(t, withLogs(t, h, before, vm.ID))
	if err := os.Rename(kernel.Vmlinux+".away", kernel.Vmlinux); err != nil {
		t.Fatal(err)
	}
	ok(t, h, "vm", "start", "poor")
	equal(t, "stdout", ok(t, h, "exec", "poor", "--", "echo", "well"), "well\n")
	ok(t, h, "rm", "--force", "poor")
}

// withLogs adds to before what may stay after a failed start: the VM's directory, disks and logs.
func withLogs(t *testing.T, h *testkit.Home, before testkit.Host, id string) testkit.Host {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(h.Dir, "state", "vms", id, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, filepath.Join(h.Dir, "state", "vms", id)) {
		before["file: "+strings.TrimPrefix(file, h.Dir+"/")] = true
	}
	return before
}

// TestConcurrent runs many commands at once on one VM, and on several.
func TestConcurrent(t *testing.T) {
	h := warm(t)
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)

	both := parallel(func() testkit.Result { return h.Banger(t, "vm", "create", "--name", "a", "--memory", "256M") },
		func() testkit.Result { return h.Banger(t, "vm", "create", "--name", "b", "--memory", "256M") },
		func() testkit.Result { return h.Banger(t, "vm", "create", "--name", "b", "--memory", "256M") })
	equal(t, "a is made", both[0].Code, 0)
	if (both[1].Code == 0) == (both[2].Code == 0) {
		t.Errorf("of two creates of one name, exactly one shall succeed: exits %d and %d", both[1].Code, both[2].Code)
	}
	start := func(name string) func() testkit.Result {
		return func() testkit.Result { return h.Banger(t, "vm", "start", name) }
	}
	for i, r := range parallel(start("a"), start("a"), start("a"), start("b")) {
		if r.Code != 0 {
			t.Errorf("start %d: exit %d: %s", i, r.Code, r.Stderr)
		}
	}
	exec := func() testkit.Result { return h.Banger(t, "exec", "a", "--", "sh", "-c", "sleep 1; echo done") }
	for i, r := range parallel(exec, exec, exec, exec) {
		if r.Stdout != "done\n" {
			t.Errorf("exec %d: exit %d: %s", i, r.Code, r.Stderr)
		}
	}
	// Restart and stop are queued. Whichever is last, the VM ends in a settled state.
	parallel(func() testkit.Result { return h.Banger(t, "vm", "restart", "a") }, func() testkit.Result { return h.Banger(t, "vm", "stop", "a") })
	if state := show(t, h, "a").State; state != model.Running && state != model.Stopped {
		t.Errorf("a is %s", state)
	}
	// A deletion cancels a start, and the start reports that.
	ok(t, h, "vm", "stop", "b")
	_, background := h.Start(t, "vm", "start", "b")
	testkit.WaitFor(t, 20*time.Second, "b is starting", func() bool { return show(t, h, "b").State != model.Stopped })
	ok(t, h, "rm", "--force", "b")
	background.Wait(t)
	ok(t, h, "rm", "--force", "a")
	equal(t, "VMs left", len(vms(t, h)), 0)
	h.CheckNoLeaks(t, before)
}

// parallel runs the functions at the same time.
func parallel(todo ...func() testkit.Result) []testkit.Result {
	results := make([]testkit.Result, len(todo))
	var wg sync.WaitGroup
	for i, f := range todo {
		wg.Go(func() { results[i] = f() })
	}
	wg.Wait()
	return results
}

// TestPrune removes stopped VMs only.
func TestPrune(t *testing.T) {
	h := warm(t)
	ok(t, h, "vm", "create", "--name", "old")
	ok(t, h, "vm", "create", "--name", "older")
	ok(t, h, "run", "-d", "--name", "busy")
	has(t, ok(t, h, "vm", "prune", "--yes"), "old", "older")
	left := vms(t, h)
	if len(left) != 1 || left[0].Spec.Name != "busy" {
		t.Errorf("left: %+v", left)
	}
	ok(t, h, "rm", "--force", "busy")
}

// TestJSON checks that commands that read can print JSON, and nothing else on standard output.
func TestJSON(t *testing.T) {
	h := warm(t)
	ok(t, h, "vm", "create", "--name", "one")
	for _, args := range [][]string{{"vm", "list"}, {"ps"}, {"vm", "show", "one"}, {"image", "list"}, {"image", "show", testkit.Image},
		{"kernel", "list"}, {"kernel", "show", testkit.Kernel}, {"config", "show"}, {"version"}, {"daemon", "status"}} {
		if out := ok(t, h, append(args, "--json")...); !json.Valid([]byte(out)) {
			t.Errorf("%v: not JSON:\n%s", args, out)
		}
	}
	ok(t, h, "rm", "one")
}
