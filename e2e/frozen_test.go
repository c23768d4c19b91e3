package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/testkit"
)

// freezer is a program of a guest's root that freezes banger's agent, which has started it. When
// the kernel reports that the agent is frozen, it writes its first argument to the console.
const freezer = `mkdir -p /run/cg && mount -t cgroup2 none /run/cg && mkdir /run/cg/f &&
echo $PPID >/run/cg/f/cgroup.procs && echo 1 >/run/cg/f/cgroup.freeze &&
until grep -q "frozen 1" /run/cg/f/cgroup.events; do :; done && echo "$0" >/dev/console`

// silentBox starts the VM "box", which it makes if it is missing, and makes its agent silent.
func silentBox(t *testing.T, h *testkit.Home) {
	t.Helper()
	if h.Banger(t, "vm", "show", "box").Code != 0 {
		ok(t, h, "run", "-d", "--name", "box", "--memory", "128M")
	} else {
		ok(t, h, "start", "box")
	}
	// Only the console proves it: no answer to `vm stats` may also mean that the agent is slow.
	mark := fmt.Sprintf("the agent is frozen: %d", time.Now().UnixNano())
	cmd, command := h.Start(t, "exec", "box", "--", "sh", "-c", freezer, mark)
	testkit.WaitFor(t, time.Minute, "the agent is frozen", func() bool {
		if command.Ended() {
			t.Fatalf("the command that freezes the agent has ended: %s", command.Output())
		}
		return strings.Contains(ok(t, h, "logs", "box"), mark)
	})
	_ = cmd.Process.Kill()
	command.Wait(t)
}

// TestFrozenAgentIsKilled: the guest's root has frozen the agent. Each operation that waits for the
// guest says so. A kill and a forced delete end the operation before its time is over, and it says
// why it ends.
func TestFrozenAgentIsKilled(t *testing.T) {
	h := warm(t)
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)
	for _, end := range []struct{ line, says string }{{"vm kill box", "was killed meanwhile"}, {"rm -f box", "the VM is being deleted"}} {
		for line, says := range map[string]string{
			"fork box": "freeze, until about ", "snapshot create box": "sync, until about ", "suspend box": "sync, until about ",
			"pause box": "freeze, until about ", "stop --timeout 10m box": "power-off of the guest, until about ",
			"vm set --disk-size 30G box":                             "answer of VM box",
			"vm cp box:/etc/hostname " + filepath.Join(h.Dir, "out"): "answer of VM box", "vm cp /etc/hostname box:/tmp": "answer of VM box",
		} {
			isCopy := strings.HasPrefix(line, "vm cp")
			t.Run(line+", "+end.line, func(t *testing.T) {
				silentBox(t, h)
				_, first := h.Start(t, strings.Fields(line)...)
				first.Expect(t, says)
				// It waits for the first, unless that is a copy, which is no operation on the
				// VM. It must have begun: a snapshot of the VM that was killed succeeds.
				_, second := h.Start(t, "snapshot", "create", "box")
				if isCopy {
					second.Expect(t, "sync, until about ")
				} else {
					second.Expect(t, "which is under way")
				}
				ok(t, h, strings.Fields(end.line)...)
				for i, command := range []*testkit.Background{first, second} {
					name := []string{line, "the second command"}[i]
					if code := command.Wait(t); code == 0 && !strings.HasPrefix(line, "stop") {
						t.Errorf("%s succeeded: %s", name, command.Output())
					}
				}
				if !strings.HasPrefix(line, "stop") && !isCopy {
					has(t, first.Output(), end.says)
				}
				if end.line == "vm kill box" {
					equal(t, "state", show(t, h, "box").State, model.Stopped)
				} else {
					code(t, h, fault.NotFound.ExitCode(), "vm", "show", "box")
				}
			})
		}
		h.Banger(t, "rm", "-f", "box")
	}
	h.CheckNoLeaks(t, before)
}

// TestFrozenAgentAndRestart: the daemon is restarted while operations wait for a guest that has
// frozen its agent. The daemon ends, other VMs are served, and the VM is killed although the next
// daemon waits for its guest.
func TestFrozenAgentAndRestart(t *testing.T) {
	h := warm(t)
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)
	ok(t, h, "run", "-d", "--name", "other", "--memory", "128M")
	for _, end := range []string{"vm kill box", "rm -f box"} {
		for _, line := range []string{"fork box", "suspend box", "stop --timeout 10m box"} {
			t.Run(line+", "+end, func(t *testing.T) {
				silentBox(t, h)
				_, command := h.Start(t, strings.Fields(line)...)
				command.Expect(t, ", until about ")
				ok(t, h, "daemon", "restart")
				if code := command.Wait(t); code == 0 {
					t.Errorf("%s succeeded: %s", line, command.Output())
				}
				ok(t, h, "exec", "other", "--", "true")
				ok(t, h, "vm", "show", "box")
				ok(t, h, strings.Fields(end)...)
			})
		}
		h.Banger(t, "rm", "-f", "box")
	}
	ok(t, h, "rm", "-f", "other")
	h.CheckNoLeaks(t, before)
}
