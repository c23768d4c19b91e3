package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/internal/model"
	"banger/internal/testkit"
)

// whoami prints what must differ between a VM and its forks: host name, machine-id, boot-id and
// random bytes, one per line.
const whoami = `hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An -tx1 | tr -d ' '`

// load writes to both disks without end: a git repository that grows, and a file that is
// overwritten.
const load = `git init -q /root/repo && cd /root/repo && git config user.name t && git config user.email t@t && echo $$ >/root/load.pid
n=0; while :; do n=$((n+1)); echo $n >counter; git add counter && git commit -qm "$n"; dd if=/dev/urandom of=/opt/noise bs=64k count=4 conv=notrunc 2>/dev/null; done`

// TestFork forks a VM that is working. The children continue its work as machines of their own.
func TestFork(t *testing.T) {
	h := warm(t)
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)
	ok(t, h, "run", "-d", "--name", "web", "--memory", "384M")
	ok(t, h, "exec", "web", "--", "sh", "-c", "echo of the parent | tee /opt/file >/root/file; nohup sh -c '"+load+"' >/dev/null 2>&1 &")
	program, err := build("bank")
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/bank"
	if err := os.WriteFile(path, []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	ok(t, h, "cp", path, "web:/usr/local/bin/bank")
	// A check before the first commit can make the change to WAL in "bank run" fail.
	ok(t, h, "exec", "web", "--", "sh", "-c", `nohup bank run /root/bank.db >/root/bank.log 2>&1 &
		until test -s /root/bank.db-wal && bank check /root/bank.db; do
			kill -0 $! || { cat /root/bank.log >&2; exit 1; }
			sleep 0.1
		done`)
	ok(t, h, "exec", "web", "--", "sh", "-c", "mkdir -p /etc/banger/fork.d; printf '#!/bin/sh\\necho $BANGER_NAME $BANGER_GENERATION >>/opt/hooks\\n' >/etc/banger/fork.d/10-note; chmod +x /etc/banger/fork.d/10-note")
	ok(t, h, "exec", "web", "--", "sh", "-c", "until git -C /root/repo rev-parse -q --verify HEAD >/dev/null; do sleep 0.1; done")

	forked := decode[model.Forked](t, h, "vm", "fork", "web", "--count", "3", "--name", "try")
	if len(forked.Children) != 3 || forked.Pause <= 0 {
		t.Fatalf("forked: %+v", forked)
	}
	t.Logf("the parent stood still for %v", forked.Pause)
	names := []string{"web"}
	for i, c := range forked.Children {
		equal(t, "name", c.Name, fmt.Sprintf("try-%d", i+1))
		if c.VM == nil {
			t.Fatalf("%s: %s", c.Name, c.Error)
		}
		names = append(names, c.Name)
		equal(t, "state", c.VM.State, model.Running)
		equal(t, "parent", c.VM.Parent.Name, "web")
		equal(t, "origin", c.VM.Boot.Origin.Kind, model.FromFork)
	}
	t.Run("identity", func(t *testing.T) { differ(t, h, names) })
	t.Run("files and processes", func(t *testing.T) {
		for _, name := range names[1:] {
			equal(t, "files", ok(t, h, "exec", name, "--", "cat", "/opt/file", "/root/file"), "of the parent\nof the parent\n")
			equal(t, "generation and hooks", ok(t, h, "exec", name, "--", "cat", "/run/banger/generation", "/opt/hooks"), "1\n"+name+" 1\n")
			was := ok(t, h, "exec", name, "--", "git", "-C", "/root/repo", "rev-list", "--count", "HEAD")
			testkit.WaitFor(t, time.Minute, "the child's own work goes on", func() bool {
				return ok(t, h, "exec", name, "--", "git", "-C", "/root/repo", "rev-list", "--count", "HEAD") != was
			})
		}
		equal(t, "the parent's hooks", ok(t, h, "exec", "web", "--", "sh", "-c", "cat /opt/hooks 2>/dev/null || echo none"), "none\n")
	})
	t.Run("separate disks", func(t *testing.T) {
		ok(t, h, "exec", "try-1", "--", "sh", "-c", "echo mine >/opt/file; echo mine >/root/file")
		for _, name := range []string{"web", "try-2", "try-3"} {
			equal(t, "files", ok(t, h, "exec", name, "--", "cat", "/opt/file", "/root/file"), "of the parent\nof the parent\n")
		}
	})
	t.Run("ssh with the child's own key", func(t *testing.T) {
		equal(t, "stdout", ok(t, h, "ssh", "try-2", "--", "hostname"), "try-2\n")
	})
	t.Run("clock", func(t *testing.T) { checkClock(t, h, "try-3") })
	t.Run("a fork of a fork", func(t *testing.T) {
		ok(t, h, "rm", "-f", "web")
		equal(t, "stdout", ok(t, h, "fork", "try-1", "--name", "deep"), "deep\n")
		equal(t, "stdout", ok(t, h, "fork", "deep", "--name", "deeper"), "deeper\n")
		ok(t, h, "rm", "-f", "deep")
		equal(t, "files", ok(t, h, "exec", "deeper", "--", "cat", "/opt/file", "/root/file", "/run/banger/generation"), "mine\nmine\n3\n")
		differ(t, h, []string{"try-1", "try-2", "deeper"})
	})
	t.Run("integrity under load", func(t *testing.T) {
		for _, name := range []string{"try-2", "deeper"} {
			ok(t, h, "exec", name, "--", "sh", "-c", "kill $(cat /root/load.pid); while pgrep -x git; do sleep 0.1; done; rm -f /root/repo/.git/*.lock; git -C /root/repo fsck --full --strict")
			was := ok(t, h, "exec", name, "--", "bank", "check", "/root/bank.db")
			testkit.WaitFor(t, time.Minute, "the bank in the child goes on", func() bool { return ok(t, h, "exec", name, "--", "bank", "check", "/root/bank.db") != was })
			ok(t, h, "vm", "stop", name)
			vm := show(t, h, name)
			for _, disk := range []string{"system.ext4", "work.ext4"} {
				run(t, h, "e2fsck", "-fn", h.Dir+"/state/vms/"+vm.ID+"/"+disk)
			}
			ok(t, h, "vm", "start", name) // a child is an ordinary VM
			equal(t, "host name", ok(t, h, "exec", name, "--", "hostname"), name+"\n")
			ok(t, h, "exec", name, "--", "bank", "check", "/root/bank.db")
		}
	})
	t.Run("refusals", func(t *testing.T) {
		fails(t, h, []string{"fork", "nobody"}, "nobody")
		fails(t, h, []string{"fork", "try-2", "--count", "0"}, "count")
		fails(t, h, []string{"fork", "try-2", "--count", "1001"}, "1000")
		fails(t, h, []string{"fork", "try-2", "--name", "try-3"}, "try-3")
		fails(t, h, []string{"fork", "try-2", "--name", "Not A Name"}, "Not A Name")
		ok(t, h, "vm", "stop", "try-2")
		fails(t, h, []string{"fork", "try-2"}, "try-2", "start")
	})
	t.Run("two for one name", func(t *testing.T) {
		var wg sync.WaitGroup
		results := make([]testkit.Result, 2)
		for i := range results {
			wg.Go(func() { results[i] = h.Banger(t, "fork", "try-3", "--name", "only-one") })
		}
		wg.Wait()
		if (results[0].Code == 0) == (results[1].Code == 0) {
			t.Errorf("exits %d and %d: one of two must get the name\n%s%s", results[0].Code, results[1].Code, results[0].Stderr, results[1].Stderr)
		}
	})
	ok(t, h, "rm", "-f", "try-1", "try-2", "try-3", "deeper", "only-one")
	h.CheckNoLeaks(t, before)
}

// differ checks that no two of the VMs share an identity.
func differ(t *testing.T, h *testkit.Home, names []string) {
	t.Helper()
	seen := map[string]string{}
	for _, name := range names {
		lines := strings.Fields(ok(t, h, "exec", name, "--", "sh", "-c", whoami))
		if len(lines) != 4 || lines[0] != name {
			t.Fatalf("%s says that it is %q", name, lines)
		}
		lines = append(lines, run(t, h, "ssh-keygen", "-lf", h.Dir+"/state/vms/"+show(t, h, name).ID+"/ssh_host_ed25519_key.pub"))
		for _, line := range lines {
			if other, taken := seen[line]; taken {
				t.Errorf("%s and %s share %q", name, other, line)
			}
			seen[line] = name
		}
	}
}

// checkClock compares the guest's clock with the host's. The difference includes the time of the
// command.
func checkClock(t *testing.T, h *testkit.Home, name string) {
	t.Helper()
	began := time.Now()
	text := strings.TrimSpace(ok(t, h, "exec", name, "--", "date", "+%s.%N"))
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Fatal(err)
	}
	guest := time.UnixMicro(int64(seconds * 1e6))
	if guest.Before(began.Add(-2*time.Second)) || guest.After(time.Now().Add(2*time.Second)) {
		t.Errorf("the clock of %s is %v, the host's %v", name, guest, began)
	}
}

// TestForkMany makes as many forks of one VM as the host can hold. All answer, all differ, and none
// sees another's files. BANGER_STRESS=100 needs a quiet host.
func TestForkMany(t *testing.T) {
	h := warm(t)
	count := testkit.Number(t, "BANGER_STRESS", 12)
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)
	ok(t, h, "run", "-d", "--name", "seed", "--memory", "256M", "--vcpu", "1")
	began := time.Now()
	forked := decode[model.Forked](t, h, "fork", "seed", "--count", strconv.Itoa(count), "--name", "kid")
	t.Logf("%d children in %v; the parent stood still for %v", count, time.Since(began), forked.Pause)
	identities, names := map[string]string{}, []string{}
	for _, c := range forked.Children {
		if c.VM == nil {
			t.Fatalf("%s: %s", c.Name, c.Error)
		}
		names = append(names, c.Name)
		out := ok(t, h, "exec", c.Name, "--", "sh", "-c", whoami+"; cat /root/* 2>/dev/null; hostname >/root/mine")
		lines := strings.Fields(out)
		if len(lines) != 4 || lines[0] != c.Name {
			t.Errorf("%s says %q", c.Name, lines)
		}
		for _, line := range lines {
			if other, taken := identities[line]; taken {
				t.Errorf("%s and %s share %q", c.Name, other, line)
			}
			identities[line] = c.Name
		}
	}
	equal(t, "identities", len(identities), 4*count)
	ok(t, h, append([]string{"rm", "-f", "seed"}, names...)...)
	h.CheckNoLeaks(t, before)
}

// TestForkHooks forks VMs whose hooks fail. A hook that makes files anew must succeed: without it,
// the child would have its parent's key. Other hooks do not matter.
func TestForkHooks(t *testing.T) {
	h := warm(t)
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)
	ok(t, h, "run", "-d", "--name", "web", "--memory", "128M")
	hook := func(name, script string) {
		t.Helper()
		ok(t, h, "exec", "web", "--", "sh", "-c", "mkdir -p /etc/banger/fork.d; printf '#!/bin/sh\\n"+script+"\\n' >/etc/banger/fork.d/"+name+"; chmod +x /etc/banger/fork.d/"+name)
	}
	hook("10-plain", "exit 3")
	ok(t, h, "fork", "web", "--name", "plain")
	for script, why := range map[string]string{"exit 4": "status 4", "exec sleep 1000": "take too long"} {
		hook("20-key", "# regenerates /opt/key\\n"+script)
		fails(t, h, []string{"fork", "web", "--name", "child"}, "the guest reports: ", "20-key", why)
		fails(t, h, []string{"vm", "show", "child"}, "child")
		ok(t, h, "exec", "web", "--", "true")
	}
	hook("20-key", "# regenerates /opt/key\\necho $BANGER_NAME >/opt/key")
	ok(t, h, "fork", "web", "--name", "child")
	equal(t, "the child's key", ok(t, h, "exec", "child", "--", "cat", "/opt/key"), "child\n")
	hook("15-slow", "exec sleep 1000") // takes the time of the hook after it
	fails(t, h, []string{"fork", "web", "--name", "late"}, "20-key", "take too long")
	ok(t, h, "rm", "-f", "web", "plain", "child")
	h.CheckNoLeaks(t, before)
}
