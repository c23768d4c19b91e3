package boottest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger/internal/guest/proto"
	"banger/internal/vmm"
	"banger/internal/vmm/qemu"
)

// save saves a machine, and its disks while it is halted. Then the machine continues.
func (m *machine) save(d disks) (vmm.Checkpoint, disks) {
	m.t.Helper()
	dir := m.t.TempDir()
	memory, err := os.Create(filepath.Join(dir, "memory"))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { memory.Close() })
	req := vmm.SaveRequest{Memory: memory, Device: filepath.Join(dir, "device")}
	kept := d
	req.Still = func(context.Context) error {
		kept.system, kept.work = copyDisk(m.t, d.system), copyDisk(m.t, d.work)
		return nil
	}
	start := time.Now()
	saved, err := m.instance.(vmm.Saver).Save(m.ctx(), req)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Logf("saved in %v: %+v", time.Since(start), saved)
	device, err := os.Open(req.Device)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { device.Close() })
	return vmm.Checkpoint{Memory: memory, Device: device}, kept
}

func copyDisk(t *testing.T, path string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	run(t, "cp", "--reflink=auto", "--sparse=always", path, to)
	return to
}

// awaitRehearsal waits until a restored machine has started a program by itself.
func (m *machine) awaitRehearsal() {
	m.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		h, err := m.Hello(m.ctx())
		if err != nil {
			m.t.Fatal(err)
		}
		if slices.ContainsFunc(h.Marks, func(mark proto.Mark) bool { return mark.Name == "rehearsed" }) {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("no rehearsal; the guest's marks are %+v", h.Marks)
		}
	}
}

// TestForks saves a running machine and makes two forks of it. They get their own identities, and
// their processes continue.
func TestForks(t *testing.T) {
	p := requireParts(t)
	d := disks{image: newImage(t, busyboxRoot(t)), system: newDisk(t, "1G"), work: newDisk(t, "256M")}
	parent := p.start(t, d)
	withWork := func(name string) func(*proto.Assume) {
		return func(doc *proto.Assume) {
			as(t, name)(doc)
			doc.Mounts = []proto.Mount{{Serial: proto.SerialWork, Target: "/root", Seed: true, Size: 256 << 20}}
			doc.Root.SystemSize = 1 << 30
		}
	}
	parent.assume(withWork("parent"))
	parent.detach("i=0; while :; do i=$((i+1)); echo tick $i $(cat /proc/sys/kernel/hostname); sleep 0.02; done")
	parent.awaitTicks(5)
	parent.sh("echo from the parent > /root/file; sync")
	session := open(t, parent, proto.ExecRequest{Argv: []string{"sh", "-c", "echo ready; exec sleep 1234"}})
	session.expect("ready")

	parent.freeze()
	state, kept := parent.save(d)
	parent.thaw()
	ticks := parent.ticks()
	parent.awaitTicks(ticks + 3)
	if got := parent.sh("ps | grep -c '[s]leep 1234'"); got != "1" {
		t.Errorf("the parent's session: %q", got)
	}

	all := []map[string]string{parent.identity()}
	for i, name := range []string{"ada", "grace-h"} {
		own := kept
		own.system, own.work = copyDisk(t, kept.system), copyDisk(t, kept.work)
		child := p.restore(t, state, own)
		h, err := child.Wake(child.ctx())
		if err != nil || !h.Frozen || !h.Assumed || h.Forks != 0 {
			t.Fatalf("hello is %+v, %v", h, err)
		}
		t.Logf("child %d answers after %v", i, time.Since(child.start))
		child.checkStill()
		child.awaitRehearsal()
		begin := time.Now()
		child.assume(withWork(name))
		t.Logf("it has its identity after %v", time.Since(begin))
		checkClock(t, child)
		child.awaitTicks(max(child.ticks(), ticks-1) + 3)
		checkLines(t, child, name)
		id := child.identity()
		for j, other := range all {
			for what, value := range other {
				if id[what] == value {
					t.Errorf("%s of machine %d is also that of machine %d: %q", what, j, i+1, value)
				}
			}
		}
		all = append(all, id)
		if got := child.sh("cat /root/file; until ! ps | grep -q '[s]leep 1234'; do sleep 0.05; done; cat /run/banger/generation; nc -w 5 10.0.2.3 53 < /dev/null && echo net"); got != "from the parent\n1\nnet" {
			t.Errorf("in child %d: %q", i, got)
		}
		for range 5 { // a rehearsal is in nobody's way
			if _, err := child.Wake(child.ctx()); err != nil {
				t.Error(err)
			}
			child.freeze()
			child.thaw()
		}
		if _, err := child.PowerOff(child.ctx(), endGrace); err != nil {
			t.Error(err)
		}
		child.awaitEnd()
		run(t, "e2fsck", "-fn", own.system)
		run(t, "e2fsck", "-fn", own.work)
	}
	if got := parent.sh("cat /run/banger/generation 2>/dev/null; cat /root/file"); got != "from the parent" {
		t.Errorf("in the parent: %q", got)
	}
}

// checkClock compares the guest's clock with the host's.
func checkClock(t *testing.T, m *machine) {
	t.Helper()
	before := time.Now().Unix()
	now, err := strconv.ParseInt(m.sh("date +%s"), 10, 64)
	if after := time.Now().Unix(); err != nil || now < before-1 || now > after+1 {
		t.Errorf("the guest's clock says %d between %d and %d: %v", now, before, after, err)
	}
}

// checkLines checks the names in the ticks. After the tick during which the machine was frozen, no
// line has another name.
func checkLines(t *testing.T, m *machine, name string) {
	t.Helper()
	var said []string
	for line := range strings.Lines(m.console.String()) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "tick" {
			said = append(said, f[2])
		}
	}
	if len(said) < 2 || slices.ContainsFunc(said[1:], func(s string) bool { return s != name }) {
		t.Errorf("a fork is called %q by its processes", said)
	}
}

// TestUniversalFork saves a machine that has not read its drives yet, and restores it with drives
// of other sizes.
func TestUniversalFork(t *testing.T) {
	p := requireParts(t)
	small := func() string {
		path := filepath.Join(t.TempDir(), "small")
		run(t, "truncate", "-s", "1M", path)
		return path
	}
	d := disks{image: small(), system: small(), work: small()}
	template := p.start(t, d)
	if _, err := template.Hello(template.ctx()); err != nil {
		t.Fatal(err)
	}
	template.freeze()
	state, _ := template.save(d)

	real := disks{image: newImage(t, busyboxRoot(t)), system: newDisk(t, "1G"), work: newDisk(t, "256M")}
	withSizes := func(doc *proto.Assume) {
		doc.Root.ImageSize, doc.Root.SystemSize = 64<<20, 1<<30
		doc.Mounts = []proto.Mount{{Serial: proto.SerialWork, Target: "/root", Seed: true, Size: 256 << 20}}
	}
	for i := range 2 {
		m := p.restore(t, state, disks{image: real.image, system: copyDisk(t, real.system), work: copyDisk(t, real.work)})
		if h, err := m.Wake(m.ctx()); err != nil || h.Frozen || h.Assumed {
			t.Fatalf("hello is %+v, %v", h, err)
		}
		begin := time.Now()
		m.assume(withSizes)
		t.Logf("machine %d has its identity after %v, and %v in all", i, time.Since(begin), time.Since(m.start))
		if got := m.sh("cat /root/.profile /sys/block/vda/size /sys/block/vdb/size /sys/block/vdc/size; test -e /run/banger/generation || echo first"); got != fmt.Sprintf("export FROM_PROFILE=yes\n%d\n%d\n%d\nfirst", 64<<11, 1<<21, 256<<11) {
			t.Errorf("in machine %d: %q", i, got)
		}
		checkClock(t, m)
		m.awaitRehearsal()
	}

	m := p.restore(t, state, real)
	_, err := m.Assume(m.ctx(), m.document(func(doc *proto.Assume) {
		withSizes(doc)
		doc.Root.SystemSize = 2 << 30
	}))
	if err == nil || !strings.Contains(err.Error(), strconv.Itoa(1<<30)) || !strings.Contains(err.Error(), strconv.Itoa(2<<30)) {
		t.Errorf("a drive of another size than it should have: %v", err)
	}
}

// TestForkOfSystemd saves a machine whose init is systemd, with the agent beside it, and makes a
// fork.
func TestForkOfSystemd(t *testing.T) {
	p := requireParts(t).onOneCPU()
	d := disks{image: systemdImage(t), system: newDisk(t, "1G"), work: newDisk(t, "256M")}
	parent := p.start(t, d)
	parent.assume(func(doc *proto.Assume) {
		as(t, "parent")(doc)
		doc.Init = []string{"/sbin/init"}
	})
	parent.sh("until test -S /run/dbus/system_bus_socket; do sleep 0.2; done; systemctl is-system-running --wait")
	parent.sh("systemd-run --unit tock --property StandardOutput=file:/dev/console sh -c 'i=0; while :; do i=$((i+1)); echo tick $i $(cat /proc/sys/kernel/hostname); sleep 0.05; done'")
	parent.awaitTicks(3)
	before := parent.identity()
	parent.freeze()
	state, own := parent.save(d)
	parent.thaw()
	ticks := parent.ticks()
	parent.awaitTicks(ticks + 3)

	child := p.restore(t, state, own)
	if h, err := child.Hello(child.ctx()); err != nil || !h.Frozen || !h.Init {
		t.Fatalf("hello is %+v, %v", h, err)
	}
	child.checkStill()
	begin := time.Now()
	child.assume(func(doc *proto.Assume) {
		as(t, "child-1")(doc)
		doc.Mounts = []proto.Mount{{Serial: proto.SerialWork, Target: "/root", Seed: true}}
	})
	t.Logf("it has its identity after %v", time.Since(begin))
	checkClock(t, child)
	child.awaitTicks(max(child.ticks(), ticks-1) + 3)
	checkLines(t, child, "child-1")
	for name, value := range child.identity() {
		if before[name] == value {
			t.Errorf("%s is still %q", name, value)
		}
	}
	if got := child.sh("systemctl stop tock; systemctl is-system-running; hostnamectl hostname; cat /run/banger/generation; findmnt -no FSTYPE /root"); got != "running\nchild-1\n1\next4" {
		t.Errorf("in the child: %q", got)
	}
	for _, m := range []*machine{child, parent} {
		if _, err := m.PowerOff(m.ctx(), endGrace); err != nil {
			t.Error(err)
		}
		m.awaitEnd()
	}
	run(t, "e2fsck", "-fn", own.system)
	run(t, "e2fsck", "-fn", d.system)
}

// TestHostGoesAway disconnects the host while the machine is halted and has output. Another host is
// served after the machine continues. Its silence meanwhile causes no second boot.
func TestHostGoesAway(t *testing.T) {
	p := requireParts(t)
	d := disks{image: newImage(t, busyboxRoot(t)), system: newDisk(t, "1G"), work: newDisk(t, "256M")}
	const patience = 3 * time.Second
	m := p.startBy(t, d, qemu.New(qemu.Config{BootPatience: patience}))
	m.assume(nil)
	pauser := m.instance.(vmm.Pauser)
	for range 3 {
		open(t, m, proto.ExecRequest{Argv: []string{"sh", "-c", "yes | head -c 100000000"}}).expect("y")
		if err := pauser.Pause(m.ctx()); err != nil {
			t.Fatal(err)
		}
		m.cut()
		time.Sleep(100 * time.Millisecond) // QEMU would have noticed
		if err := pauser.Resume(m.ctx()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond) // the guest has written
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if _, err := m.Hello(ctx); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(patience + patience/10)
	if h, err := m.Hello(m.ctx()); err != nil || !h.Assumed {
		t.Errorf("after the host went away the hello is %+v, %v", h, err)
	}
}
