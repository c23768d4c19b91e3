package e2e

import (
	"crypto/rand"
	"encoding/hex"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/model"
	"banger/internal/testkit"
)

// vms returns the home's VMs.
func vms(t *testing.T, h *testkit.Home) []model.VM {
	t.Helper()
	return decode[[]model.VM](t, h, "vm", "list")
}

// show returns one VM's record.
func show(t *testing.T, h *testkit.Home, name string) model.VM {
	t.Helper()
	return decode[model.VM](t, h, "vm", "show", name)
}

// settled reports whether nothing is under way on a VM, and the daemon knows its state.
func settled(vm model.VM) bool { return !vm.State.Between() && vm.State != model.Recovering }

// machinePID returns the pid of a VM's VMM, which must be running.
func machinePID(t *testing.T, h *testkit.Home, name string) int {
	t.Helper()
	vm := show(t, h, name)
	if vm.Runtime == nil || vm.Runtime.PID == 0 {
		t.Fatalf("%s is %s and has no machine", name, vm.State)
	}
	return vm.Runtime.PID
}

// TestRun checks `vm run` as scripts use it: its output, its exit status, and what it leaves.
func TestRun(t *testing.T) {
	h := warm(t)
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)

	t.Run("output", func(t *testing.T) {
		out := ok(t, h, "vm", "run", "--rm", "--", "cat", "/etc/os-release")
		if !strings.HasPrefix(out, `PRETTY_NAME="Debian GNU/Linux 12`) || !strings.HasSuffix(out, "\n") {
			t.Errorf("this is not only the guest's file:\n%s", out)
		}
		equal(t, "VMs left", len(vms(t, h)), 0)
	})
	t.Run("streams and status", func(t *testing.T) {
		r := h.Banger(t, "vm", "run", "--rm", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
		equal(t, "exit status", r.Code, 7)
		equal(t, "stdout", r.Stdout, "out\n")
		has(t, r.Stderr, "err\n")
	})
	t.Run("signal death", func(t *testing.T) {
		equal(t, "exit status", h.Banger(t, "run", "--rm", "--", "sh", "-c", "kill -9 $$").Code, 137)
	})
	t.Run("stdin", func(t *testing.T) {
		equal(t, "stdout", h.Feed(t, "hi\n", "vm", "run", "--rm", "--", "cat").Stdout, "hi\n")
	})
	t.Run("no such command", func(t *testing.T) {
		equal(t, "exit status", h.Banger(t, "vm", "run", "--rm", "--", "no-such-program").Code, 127)
	})
	t.Run("settings", func(t *testing.T) {
		out := ok(t, h, "vm", "run", "--rm", "--name", "set", "--vcpu", "1", "--memory", "256M", "--disk-size", "1G",
			"--work-disk-size", "256M", "--net", "none", "--env", "K=V with space", "--workdir", "/usr", "--",
			"sh", "-c", `echo $K; pwd; hostname; nproc; ls /sys/class/net; df -k --output=size / /root | tail -n 2`)
		lines := strings.Fields(strings.ReplaceAll(out, "V with space", "V"))
		if len(lines) != 7 {
			t.Fatalf("seven words expected:\n%s", out)
		}
		equal(t, "what the guest sees", strings.Join(lines[:5], " "), "V /usr set 1 lo")
		has(t, out, "V with space\n")
	})
	t.Run("timeout", func(t *testing.T) {
		equal(t, "exit status", h.Banger(t, "vm", "run", "--rm", "--timeout", "1s", "--", "sleep", "1000").Code, 124)
	})
	t.Run("user network", func(t *testing.T) {
		has(t, ok(t, h, "vm", "run", "--rm", "--net", "user", "--", "ip", "-brief", "address"), "10.0.2.15/")
	})
	equal(t, "VMs left", len(vms(t, h)), 0)
	h.CheckNoLeaks(t, before)
}

// TestRunDetached keeps a VM under a name, and sends all bytes through a stream.
func TestRunDetached(t *testing.T) {
	h := warm(t)
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)

	out := ok(t, h, "vm", "run", "-d", "--name", "keep")
	equal(t, "stdout", out, "keep\n")
	equal(t, "state", show(t, h, "keep").State, model.Running)

	t.Run("bytes both ways", func(t *testing.T) {
		raw := make([]byte, 512<<10)
		rand.Read(raw)
		r := h.Feed(t, string(raw), "exec", "keep", "--", "cat")
		if r.Code != 0 || r.Stdout != string(raw) {
			t.Errorf("exit %d, %d of %d bytes came back, equal: %v\n%s", r.Code, len(r.Stdout), len(raw), r.Stdout == string(raw), r.Stderr)
		}
	})
	t.Run("stdin that nobody reads", func(t *testing.T) {
		equal(t, "exit status", h.Feed(t, strings.Repeat("x", 1<<20), "exec", "keep", "--", "true").Code, 0)
	})
	t.Run("closed stdin ends a reader", func(t *testing.T) {
		equal(t, "stdout", ok(t, h, "exec", "keep", "--", "sh", "-c", "cat; echo end"), "end\n")
	})
	t.Run("env, user, workdir", func(t *testing.T) {
		out := ok(t, h, "exec", "--env", "A=1", "--user", "nobody", "--workdir", "/tmp", "keep", "--", "sh", "-c", "echo $A; id -un; pwd")
		equal(t, "stdout", out, "1\nnobody\n/tmp\n")
	})
	t.Run("a unique prefix of the id", func(t *testing.T) {
		id := show(t, h, "keep").ID
		equal(t, "name", show(t, h, id[:6]).Spec.Name, "keep")
	})
	t.Run("a detached command", func(t *testing.T) {
		out := ok(t, h, "run", "-d", "--rm", "--name", "serve", "--", "sh", "-c", "echo its word; sleep 1000")
		equal(t, "stdout", out, "serve\n")
		testkit.WaitFor(t, 10*time.Second, "its output is in the log", func() bool { return strings.Contains(ok(t, h, "logs", "serve"), "its word") })
		matches(t, ok(t, h, "exec", "serve", "--", "ps", "-e", "-o", "args"), `(?m)^sleep 1000$`)
		ok(t, h, "vm", "stop", "serve") // which deletes the VM
		fails(t, h, []string{"vm", "show", "serve"}, "serve")
		equal(t, "exit status", h.Banger(t, "run", "-d", "--rm", "--name", "none", "--", "nonesuch").Code, 127)
		ok(t, h, "rm", "--force", "none")
	})
	t.Run("a taken name", func(t *testing.T) {
		fails(t, h, []string{"vm", "run", "--rm", "--name", "keep", "--", "true"}, "keep")
		equal(t, "state", show(t, h, "keep").State, model.Running)
	})
	ok(t, h, "rm", "--force", "keep")
	h.CheckNoLeaks(t, before)
}

// TestRunInterrupted checks what a person at a terminal, or a signal, can do to a run.
func TestRunInterrupted(t *testing.T) {
	h := warm(t)
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)

	t.Run("interactive shell", func(t *testing.T) {
		term := h.Terminal(t, "vm", "run", "--rm", "--name", "shell")
		term.Expect(t, "# ")
		term.Type(t, "echo size $(stty size)\r")
		term.Expect(t, "size 24 80")
		term.Resize(t, 40, 111)
		term.Type(t, "sleep 1; echo size $(stty size)\r")
		term.Expect(t, "size 40 111")
		// After its first output the command has the terminal. Between two commands a shell may
		// lose a Ctrl-C.
		term.Type(t, "sh -c 'echo about to sleep; exec sleep 1000'\r")
		term.Expect(t, "\rabout to sleep")
		// bash enables bracketed paste at each prompt.
		prompts := func() int { return strings.Count(term.Output(), "\x1b[?2004h") }
		before := prompts()
		term.Type(t, "\x03")
		testkit.WaitFor(t, time.Minute, "there is a prompt again", func() bool { return prompts() > before })
		term.Type(t, "tty; exit 5\r")
		term.Expect(t, "/dev/pts/")
		equal(t, "exit status", term.Wait(t), 5)
	})
	t.Run("Ctrl-C reaches the guest", func(t *testing.T) {
		term := h.Terminal(t, "vm", "run", "--rm", "--", "sh", "-c", `trap "echo caught; exit 3" INT; echo rea""dy; while :; do sleep 0.1; done`)
		term.Expect(t, "ready")
		term.Type(t, "\x03")
		term.Expect(t, "caught")
		equal(t, "exit status", term.Wait(t), 3)
	})
	t.Run("a second Ctrl-C tears down", func(t *testing.T) {
		cmd, out := h.Start(t, "vm", "run", "--rm", "--", "sh", "-c", `trap "echo caught" INT; echo ready; while :; do sleep 0.1; done`)
		out.Expect(t, "ready")
		signal(t, cmd, syscall.SIGINT)
		out.Expect(t, "caught")
		signal(t, cmd, syscall.SIGINT)
		equal(t, "exit status", out.Wait(t), 130)
	})
	t.Run("SIGTERM during the boot", func(t *testing.T) {
		cmd, out := h.Start(t, "vm", "run", "--rm", "--", "true")
		testkit.WaitFor(t, 30*time.Second, "the VM is there", func() bool { return len(vms(t, h)) == 1 })
		signal(t, cmd, syscall.SIGTERM)
		if status := out.Wait(t); status == 0 {
			t.Error("a run that was told to end succeeded")
		}
	})
	for what, args := range map[string][]string{
		"SIGINT during a detached boot": {"run", "-d", "--name", "d1"},
		"SIGINT during a boot":          {"run", "--name", "d1", "--", "true"},
	} {
		t.Run(what, func(t *testing.T) {
			cmd, out := h.Start(t, args...)
			testkit.WaitFor(t, 30*time.Second, "the VM is there", func() bool { return len(vms(t, h)) == 1 })
			signal(t, cmd, syscall.SIGINT)
			equal(t, "exit status", out.Wait(t), 130)
			testkit.WaitFor(t, 30*time.Second, "the VM is gone", func() bool { return len(vms(t, h)) == 0 })
		})
	}
	t.Run("a killed CLI leaves no --rm VM", func(t *testing.T) {
		cmd, out := h.Start(t, "vm", "run", "--rm", "--", "sh", "-c", "echo ready; sleep 1000")
		out.Expect(t, "ready")
		signal(t, cmd, syscall.SIGKILL)
		testkit.WaitFor(t, 30*time.Second, "the VM is gone", func() bool { return len(vms(t, h)) == 0 })
	})
	testkit.WaitFor(t, 30*time.Second, "all VMs are gone", func() bool { return len(vms(t, h)) == 0 })
	h.CheckNoLeaks(t, before)
}

// TestRunFirst makes the image and the kernel first, and reports that only on standard error.
func TestRunFirst(t *testing.T) {
	testkit.RequireTool(t, "qemu-system-x86_64")
	testkit.RequireTool(t, "mmdebstrap")
	t.Parallel()
	h := testkit.NewHome(t, bin)
	token := make([]byte, 4)
	rand.Read(token)
	word := hex.EncodeToString(token)
	r := h.Banger(t, "run", "--rm", "--", "echo", word)
	equal(t, "exit status", r.Code, 0)
	equal(t, "stdout", r.Stdout, word+"\n")
	has(t, r.Stderr, "debian", "ext4")
	if t.Failed() {
		t.Log(r.Stderr)
	}
	ok(t, h, "run", "-d", "--name", "off")
	h.Banger(t, "exec", "off", "--", "poweroff") // the guest may end before it sends the status
	testkit.WaitFor(t, time.Minute, "the VM has stopped", func() bool { return show(t, h, "off").State == model.Stopped })
}
