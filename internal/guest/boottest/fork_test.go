package boottest

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"banger/internal/fault"
	"banger/internal/guest/proto"
)

// hooks are programs in the image's fork.d. Their output shows that they ran, in which order, with
// which arguments, and whether other processes ran.
var hooks = map[string]string{
	"10-first":  "#!/bin/sh\necho first $BANGER_NAME $BANGER_GENERATION $FROM_ASSUME $(id -u) $(hostname) $(cat /run/banger/generation) >> /tmp/hooks\n",
	"20-fails":  "#!/bin/sh\necho fails >> /tmp/hooks\nexit 3\n",
	"30-nobody": "not executable\n",
	"40-second": "#!/bin/sh\necho second >> /tmp/hooks\nsleep 1000 &\n",
	"50-hangs":  "#!/bin/sh\necho hangs >> /tmp/hooks\nexec sleep 2000\n",
	"60-late":   "#!/bin/sh\necho late >> /tmp/hooks\n",
}

// identity returns what a fork must change.
func (m *machine) identity() map[string]string {
	m.t.Helper()
	id := map[string]string{}
	for name, script := range map[string]string{
		"hostname":   "hostname",
		"/etc":       "cat /etc/hostname",
		"hosts":      "grep 127.0.1.1 /etc/hosts",
		"machine-id": "cat /etc/machine-id",
		"boot-id":    "cat /proc/sys/kernel/random/boot_id",
		"env":        "echo $FROM_ASSUME",
		"random":     "head -c 16 /dev/urandom | md5sum",
	} {
		id[name] = m.sh(script)
	}
	id["host key"] = m.hostKey()
	return id
}

// hostKey returns the key of the agent's SSH server.
func (m *machine) hostKey() string {
	m.t.Helper()
	conn, err := m.Upgrade(m.ctx(), "/v1/ssh")
	if err != nil {
		m.t.Fatal(err)
	}
	defer conn.Close()
	seen := ""
	ssh.NewClientConn(conn, "vm", &ssh.ClientConfig{User: "root", HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
		seen = ssh.FingerprintSHA256(key)
		return nil
	}}) // fails: we have no key to log in with
	if seen == "" {
		m.t.Error("the SSH server shows no key")
	}
	return seen
}

// as returns a change to an assume document that assigns another identity.
func as(t *testing.T, name string) func(*proto.Assume) {
	key, _ := newKey(t)
	return func(doc *proto.Assume) {
		doc.Hostname, doc.HostKey = name, key
		doc.MachineID = strings.Repeat(string("0123456789abcdef"[len(name)%16]), 32)
		doc.Env = []string{"FROM_ASSUME=" + name}
	}
}

// TestForkInPlace assigns other identities to a frozen machine, without saving and restoring it.
func TestForkInPlace(t *testing.T) {
	p := requireParts(t)
	root := busyboxRoot(t)
	for name, text := range hooks {
		writeProgram(t, filepath.Join(root, "etc/banger/fork.d", name), text, !strings.Contains(name, "nobody"))
	}
	m := p.start(t, disks{image: newImage(t, root), system: newDisk(t, "1G"), work: newDisk(t, "256M")})
	m.assume(as(t, "one"))
	loop := m.busy()
	before := m.identity()
	if got := m.sh("cat /run/banger/generation 2>/dev/null || echo none"); got != "none" {
		t.Errorf("before the first fork the generation is %q", got)
	}
	if _, err := m.Assume(m.ctx(), m.document(as(t, "two-2"))); fault.KindOf(err) != fault.WrongState {
		t.Errorf("an identity for a machine that runs: %v", err)
	}

	m.freeze()
	if _, err := m.Assume(m.ctx(), proto.Assume{}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("an empty document: %v", err)
	}
	m.checkStill()
	ticks := m.ticks()
	start := time.Now()
	reply := m.assume(func(doc *proto.Assume) {
		as(t, "two-2")(doc)
		doc.Mounts = []proto.Mount{{Serial: proto.SerialWork, Target: "/root", Seed: true}}
		doc.Init = []string{"/sbin/init"} // which is not even there
	})
	took := time.Since(start)
	if took < 9*time.Second {
		t.Errorf("the hook that hangs was given %v", took)
	}
	if reply.Handover {
		t.Error("a fork hands over")
	}
	if n := m.ticks(); n > ticks+1 {
		t.Errorf("while the hooks ran, a process counted from %d to %d", ticks, n)
	}
	m.awaitTicks(ticks + 3)
	after := m.identity()
	for name, value := range before {
		if after[name] == value {
			t.Errorf("%s is still %q", name, value)
		}
	}
	t.Logf("before %v\nafter %v", before, after)
	if got, want := m.sh("cat /tmp/hooks"), "first two-2 1 two-2 0 two-2 1\nfails\nsecond\nhangs"; got != want {
		t.Errorf("the hooks said %q, want %q", got, want)
	}
	if got := m.sh("cat /run/banger/generation; cat /root/.profile; ps | grep -c '[s]leep 2000' || true"); got != "1\nexport FROM_PROFILE=yes\n0" {
		t.Errorf("generation, the work disk, and the hook that hangs: %q", got)
	}

	m.sh("rm -r /etc/banger")
	m.freeze()
	m.checkStill() // the hooks' children are frozen now, too
	start = time.Now()
	m.assume(func(doc *proto.Assume) {
		as(t, "three-3-3")(doc)
		doc.Mounts = []proto.Mount{{Serial: proto.SerialWork, Target: "/root", Seed: true}}
	})
	t.Logf("another identity in %v", time.Since(start))
	if got := m.identity(); got["boot-id"] == after["boot-id"] || got["hostname"] != "three-3-3" {
		t.Errorf("the second fork is %v", got)
	}
	if got := m.sh("cat /run/banger/generation; grep -c boot_id /proc/mounts; kill -0 " + loop); got != "2\n1" {
		t.Errorf("generation and mounts: %q", got)
	}
	if h, err := m.Hello(m.ctx()); err != nil || h.Forks != 2 || h.Frozen || !h.Assumed {
		t.Errorf("hello is %+v, %v", h, err)
	}
	if _, err := m.PowerOff(m.ctx(), endGrace); err != nil {
		t.Error(err)
	}
	m.awaitEnd()
}

func writeProgram(t *testing.T, path, text string, executable bool) {
	t.Helper()
	mode := os.FileMode(0o644)
	if executable {
		mode = 0o755
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// TestForkOfOtherInit: an init that uses no control groups is halted with all its children, and
// continues in the fork.
func TestForkOfOtherInit(t *testing.T) {
	p := requireParts(t)
	root := busyboxRoot(t)
	if err := os.Symlink("../bin/busybox", filepath.Join(root, "sbin/init")); err != nil {
		t.Fatal(err)
	}
	// The init restarts a process again and again, which shows that it runs.
	writeProgram(t, filepath.Join(root, "etc/inittab"), "::respawn:/count\n", false)
	writeProgram(t, filepath.Join(root, "count"), "#!/bin/sh\nread i < /tmp/i\necho $((i+1)) > /tmp/i\necho tick $i\nexec sleep 0.1\n", true)
	writeProgram(t, filepath.Join(root, "tmp/i"), "1\n", false)
	m := p.start(t, disks{image: newImage(t, root), system: newDisk(t, "1G"), work: newDisk(t, "256M")})
	m.assume(func(doc *proto.Assume) {
		as(t, "one")(doc)
		doc.Init = []string{"/sbin/init"}
	})
	m.awaitTicks(3)
	if got := m.sh("cat /proc/1/cgroup /proc/$PPID/cgroup /proc/self/cgroup"); got != "0::/init.scope\n0::/banger-agent\n0::/banger" {
		t.Errorf("control groups of init, agent and commands: %q", got)
	}
	m.freezeAndThaw()
	before := m.identity()
	m.freeze()
	m.checkStill()
	ticks := m.ticks()
	m.assume(func(doc *proto.Assume) {
		as(t, "two-2")(doc)
		doc.Mounts = []proto.Mount{{Serial: proto.SerialWork, Target: "/root", Seed: true}}
	})
	m.awaitTicks(ticks + 3)
	for name, value := range m.identity() {
		if before[name] == value {
			t.Errorf("%s is still %q", name, value)
		}
	}

	m.freeze()
	_, err := m.Assume(m.ctx(), m.document(func(doc *proto.Assume) {
		doc.Mounts = []proto.Mount{{Serial: "no-such", Target: "/data"}}
	}))
	if err == nil || !strings.Contains(err.Error(), "no-such") {
		t.Errorf("a fork without its drive: %v", err)
	}
	m.checkStill() // it must not go on as somebody else
	if _, err := m.Assume(m.ctx(), m.document(nil)); fault.KindOf(err) != fault.WrongState {
		t.Errorf("a second try: %v", err)
	}
	if _, err := m.PowerOff(m.ctx(), endGrace); err != nil {
		t.Error(err)
	}
	m.awaitEnd()
}
