package boottest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/guest/proto"
	"banger/internal/testkit"
)

// systemdImage is a Debian image with systemd, made once per test machine.
func systemdImage(t *testing.T) string {
	t.Helper()
	testkit.RequireTool(t, "mmdebstrap")
	testkit.Require(t, "root", os.Getuid() == 0, "the image's files have owners")
	return testkit.SharedFile(t, "systemd-for-agent.ext4", func(path string) error {
		root, err := os.MkdirTemp("", "b")
		if err != nil {
			return err
		}
		defer os.RemoveAll(root)
		for _, argv := range [][]string{
			{"mmdebstrap", "--variant=minbase", "--include=systemd,systemd-sysv,dbus,udev,iproute2", "bookworm", filepath.Join(root, "r")},
			{"truncate", "-s", "600M", path},
			{"mke2fs", "-q", "-t", "ext4", "-d", filepath.Join(root, "r"), path},
		} {
			if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
				t.Logf("%v: %s", argv, out)
				return err
			}
		}
		return nil
	})
}

// TestSystemd boots an image to its init's default target, with the agent beside the init.
func TestSystemd(t *testing.T) {
	p := requireParts(t).onOneCPU()
	d := disks{image: systemdImage(t), system: newDisk(t, "1G"), work: newDisk(t, "256M")}
	m := p.start(t, d)
	got := m.assume(func(doc *proto.Assume) {
		as(t, "quiet-otter")(doc)
		doc.Init = []string{"/sbin/init"}
	})
	t.Logf("beside the init after %v: %+v", time.Since(m.start), got)
	if !got.Handover {
		t.Error("no handover")
	}
	if h, err := m.Hello(m.ctx()); err != nil || !h.Init || !h.Assumed {
		t.Errorf("hello is %+v, %v", h, err)
	}
	if got := m.sh("readlink /proc/1/exe; hostname"); got != "/usr/lib/systemd/systemd\nquiet-otter" {
		t.Errorf("process 1 is %q", got)
	}
	if got := m.sh("until test -S /run/dbus/system_bus_socket; do sleep 0.2; done; systemctl is-system-running --wait"); got != "running" {
		t.Errorf("the system is %q: %s", got, m.sh("systemctl --failed --no-pager"))
	}
	t.Logf("default target after %v: %s", time.Since(m.start), m.sh("systemctl get-default; systemctl list-jobs --no-pager; systemd-analyze blame --no-pager | head -n 20"))
	if got := m.sh("systemctl is-active default.target"); got != "active" {
		t.Errorf("the default target is %q", got)
	}
	m.cut()
	if got := m.sh("cat /proc/$PPID/cmdline | tr '\\0' ' '; cat /proc/$PPID/oom_score_adj /proc/self/oom_score_adj"); !strings.HasPrefix(got, "@banger-agent") || !strings.HasSuffix(got, "-1000\n0") {
		t.Errorf("the agent is %q", got)
	}
	if got := m.sh("grep -E 'SigIgn|SigBlk' /proc/$$/status; ulimit -Sn; ls /proc/self/fd | wc -l"); got != "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n1024\n4" {
		t.Errorf("commands start with %q", got)
	}
	t.Run("freeze", func(t *testing.T) { testFreeze(t, m) })
	t.Run("fork", func(t *testing.T) { testSystemdFork(t, m) })
	start := time.Now()
	if _, err := m.PowerOff(m.ctx(), endGrace); err != nil {
		t.Error(err)
	}
	m.awaitEnd()
	t.Logf("powered off in %v", time.Since(start))
}

// testSystemdFork assigns another identity to a machine whose process 1 is systemd. It runs after
// testFreeze.
func testSystemdFork(t *testing.T, m *machine) {
	t.Log(m.sh("cat /proc/1/cgroup /proc/$PPID/cgroup /proc/self/cgroup; ls -d /sys/fs/cgroup/*/"))
	if got := m.sh("cat /proc/1/cgroup /proc/$PPID/cgroup /proc/self/cgroup"); got != "0::/init.scope\n0::/banger-agent\n0::/banger" {
		t.Errorf("control groups of init, agent and commands: %q", got)
	}
	m.sh("systemd-run --unit tock --property StandardOutput=file:/dev/console sh -c 'i=1000000; while :; do i=$((i+1)); echo tick $i; sleep 0.05; done'")
	before := m.identity()
	m.awaitTicks(1000003)
	m.freeze()
	m.checkStill()
	start := time.Now()
	reply := m.assume(func(doc *proto.Assume) {
		as(t, "loud-owl")(doc)
		doc.Init = []string{"/sbin/init"}
		doc.Mounts = []proto.Mount{{Serial: proto.SerialWork, Target: "/root", Seed: true}}
	})
	t.Logf("another identity in %v", time.Since(start))
	if reply.Handover {
		t.Error("a fork hands over")
	}
	ticks := m.ticks()
	m.awaitTicks(ticks + 10)
	after := m.identity()
	for name, value := range before {
		if after[name] == value {
			t.Errorf("%s is still %q", name, value)
		}
	}
	if got := m.sh("cat /run/banger/generation; findmnt -no SOURCE /root; ls -d /run/banger-staging 2>/dev/null; ls -A /root"); !strings.HasPrefix(got, "1\n/dev/vd") || strings.Contains(got, "staging") || !strings.Contains(got, ".profile") {
		t.Errorf("generation and work disk: %q", got)
	}
	if got := m.sh("systemctl stop tock; systemctl is-system-running; hostnamectl hostname; systemctl --failed --no-legend --no-pager"); got != "running\nloud-owl" {
		t.Errorf("systemd after a fork: %q", got)
	}
}
