package boottest

import (
	"crypto/rand"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/guest"
	"banger/internal/guest/proto"
)

// stillTime is how long a test checks that nothing runs in a machine.
const stillTime = 2 * time.Second

func (m *machine) detach(script string) {
	m.t.Helper()
	if _, err := m.Exec(m.ctx(), proto.ExecRequest{Argv: []string{"sh", "-c", script}, Detach: true}, guest.IO{}); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) freeze() proto.Frozen {
	m.t.Helper()
	start := time.Now()
	f, err := m.Freeze(m.ctx())
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Logf("froze %d processes in %v", f.Processes, time.Since(start))
	return f
}

func (m *machine) thaw() {
	m.t.Helper()
	req := proto.Thaw{Entropy: make([]byte, 32), Time: time.Now()}
	rand.Read(req.Entropy)
	start := time.Now()
	if err := m.Thaw(m.ctx(), req); err != nil {
		m.t.Fatal(err)
	}
	m.t.Logf("thawed in %v", time.Since(start))
}

// busy starts a process that sleeps, one that counts on the console, and one that uses up its CPU.
// It returns the pid of the last one.
func (m *machine) busy() string {
	m.t.Helper()
	m.detach("exec sleep 1000")
	m.detach("i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.01; done")
	m.detach("echo $$ > /tmp/loop; while :; do :; done")
	m.awaitTicks(1)
	return m.sh("until test -s /tmp/loop; do sleep 0.05; done; cat /tmp/loop")
}

// ticks returns the last number on the console.
func (m *machine) ticks() int {
	n := 0
	for _, line := range strings.Split(m.console.String(), "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "tick" {
			if i, err := strconv.Atoi(f[1]); err == nil {
				n = i
			}
		}
	}
	return n
}

func (m *machine) awaitTicks(n int) {
	m.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for m.ticks() < n {
		if time.Now().After(deadline) {
			m.t.Fatalf("the count is at %d and does not come to %d", m.ticks(), n)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// cpu returns how much CPU time a process has used, in hundredths of a second.
func (m *machine) cpu(pid string) int {
	m.t.Helper()
	n, err := strconv.Atoi(m.sh("read a b c d e f g h i j k l m n rest < /proc/" + pid + "/stat; echo $n"))
	if err != nil {
		m.t.Fatal(err)
	}
	return n
}

// checkStill fails if the counting continues.
func (m *machine) checkStill() {
	m.t.Helper()
	<-time.After(300 * time.Millisecond) // what was said before may be on its way
	before := m.ticks()
	<-time.After(stillTime)
	if after := m.ticks(); after != before {
		m.t.Errorf("while frozen, a process counts from %d to %d", before, after)
	}
}

// TestFreeze: nothing runs in a frozen machine, and it continues where it stopped.
func TestFreeze(t *testing.T) {
	p := requireParts(t)
	m := p.start(t, disks{image: newImage(t, busyboxRoot(t)), system: newDisk(t, "1G")})
	if f := m.freeze(); f.Processes != 0 {
		t.Errorf("a machine without an identity has %d processes", f.Processes)
	}
	m.thaw()
	m.assume(nil)
	testFreeze(t, m)
	if _, err := m.PowerOff(m.ctx(), endGrace); err != nil {
		t.Error(err)
	}
	m.awaitEnd()
}

func testFreeze(t *testing.T, m *machine) {
	loop := m.busy()
	cpu := m.cpu(loop)
	if f := m.freeze(); f.Processes < 3 {
		t.Errorf("freezing halted %d processes", f.Processes)
	}
	m.freeze() // once more is the same
	if h, err := m.Hello(m.ctx()); err != nil || !h.Frozen || !h.Assumed || h.Forks != 0 {
		t.Errorf("hello is %+v, %v", h, err)
	}
	_, err := m.Exec(m.ctx(), proto.ExecRequest{Argv: []string{"true"}}, guest.IO{})
	if fault.KindOf(err) != fault.WrongState || !strings.Contains(err.Error(), "frozen") {
		t.Errorf("a command in a frozen machine: %v", err)
	}
	m.checkStill()
	ticks := m.ticks()
	m.thaw()
	m.awaitTicks(ticks + 3)
	if used := m.cpu(loop) - cpu; used > int(stillTime.Seconds()*100)/2 {
		t.Errorf("the loop used %d hundredths of a second of its CPU", used)
	}
	if h, err := m.Hello(m.ctx()); err != nil || h.Frozen || !h.Assumed || h.Forks != 0 {
		t.Errorf("hello is %+v, %v", h, err)
	}
	for range 5 {
		m.freeze()
		m.thaw()
	}
}

// TestFreezeAgainstRoot: changes that root in the guest makes to control groups keep no process
// running. What cannot be frozen is an error, after which all processes continue.
func TestFreezeAgainstRoot(t *testing.T) {
	p := requireParts(t)
	m := p.start(t, disks{image: newImage(t, busyboxRoot(t)), system: newDisk(t, "1G"), work: newDisk(t, "256M")})
	m.assume(func(doc *proto.Assume) {
		doc.Mounts = []proto.Mount{{Serial: proto.SerialWork, Target: "/root"}}
	})
	m.busy()
	t.Run("out of place", func(t *testing.T) { testStrays(t, m) })
	t.Run("docker in docker", func(t *testing.T) { testMovedAgent(t, m) })
	t.Run("removed group", func(t *testing.T) { testRemovedGroup(t, m) })
	t.Run("not to be frozen", func(t *testing.T) { testUnfreezable(t, m) })

	// A process that is frozen at the end continues and is asked to end.
	m.detach("trap 'echo ended in order; exit' TERM; echo listening; while :; do sleep 0.05; done")
	m.await("listening")
	m.freeze()
	if _, err := m.PowerOff(m.ctx(), endGrace); err != nil {
		t.Error(err)
	}
	m.await("ended in order")
	m.awaitEnd()
}

// await waits for a text on the machine's console.
func (m *machine) await(text string) {
	m.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !strings.Contains(m.console.String(), text) {
		if time.Now().After(deadline) {
			m.t.Fatalf("the machine does not say %q", text)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// freezeAndThaw checks that nothing runs in between and that all continue afterwards.
func (m *machine) freezeAndThaw() {
	m.t.Helper()
	m.freeze()
	m.checkStill()
	ticks := m.ticks()
	m.thaw()
	m.awaitTicks(ticks + 3)
}

func testStrays(t *testing.T, m *machine) {
	m.sh(`for p in $(cat /sys/fs/cgroup/banger/cgroup.procs); do echo $p > /sys/fs/cgroup/cgroup.procs || true; done
		mkdir -p /sys/fs/cgroup/docker/abc; sleep 1000 & echo $! > /sys/fs/cgroup/docker/abc/cgroup.procs; echo 1 > /sys/fs/cgroup/docker/abc/cgroup.freeze`)
	m.freezeAndThaw()
	if got := m.sh("cat /sys/fs/cgroup/docker/abc/cgroup.freeze; grep -c . /sys/fs/cgroup/docker/abc/cgroup.procs"); got != "1\n1" {
		t.Errorf("the container that was paused: %q", got)
	}
}

func testMovedAgent(t *testing.T, m *machine) {
	m.sh("mkdir /sys/fs/cgroup/init; for p in $(cat /sys/fs/cgroup/cgroup.procs); do echo $p > /sys/fs/cgroup/init/cgroup.procs 2>/dev/null || true; done; grep -qx 0::/init /proc/1/cgroup")
	m.freezeAndThaw()
	if got := m.sh("cat /proc/1/cgroup"); got != "0::/" {
		t.Errorf("the agent is in %q", got)
	}
}

func testRemovedGroup(t *testing.T, m *machine) {
	// Repeat until it is empty: a moved process may have started another one.
	m.sh("cd /sys/fs/cgroup; mkdir -p other; until rmdir banger 2>/dev/null; do for p in $(cat banger/cgroup.procs) $$; do echo $p > other/cgroup.procs || true; done; done")
	if got := m.sh("cat /proc/self/cgroup"); got != "0::/banger-2" {
		t.Errorf("commands are in %q", got)
	}
	m.freezeAndThaw()
}

// testUnfreezable makes a process wait in the kernel for a suspended file system.
func testUnfreezable(t *testing.T, m *machine) {
	m.sh("fsfreeze --freeze /root")
	m.detach("echo waits; echo x > /root/x; echo written")
	m.await("waits")
	m.sh("until grep -q '^State:.D' /proc/[0-9]*/status; do sleep 0.05; done")
	start := time.Now()
	_, err := m.Freeze(m.ctx())
	if fault.KindOf(err) != fault.Unavailable || !strings.Contains(err.Error(), "waits for a device or a file system") {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	if h, err := m.Hello(m.ctx()); err != nil || h.Frozen {
		t.Errorf("hello is %+v, %v", h, err)
	}
	ticks := m.ticks()
	m.awaitTicks(ticks + 3)
	m.sh("fsfreeze --unfreeze /root")
	m.await("written")
	m.freezeAndThaw()
}
