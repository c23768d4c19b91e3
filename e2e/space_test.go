package e2e

import (
	"crypto/md5"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/testkit"
)

// TestFullGuest fills both disks of a VM to the last byte. The VM starts again, its disks were
// unmounted cleanly, and the way out of a full disk is said where somebody needs it.
func TestFullGuest(t *testing.T) {
	h := warm(t)
	ok(t, h, "run", "-d", "--name", "f", "--disk-size", "64M", "--work-disk-size", "64M")
	sh := func(line string) string { return ok(t, h, "exec", "f", "--", "sh", "-c", line) }
	sh(`for dir in / /root; do
		dd if=/dev/zero of=$dir/fill bs=1M; dd if=/dev/zero of=$dir/rest bs=512
		! echo more >>$dir/rest || exit 1
	done 2>/dev/null; true`)
	file := write(t, h, "file", strings.Repeat("x", 1<<20), 0o644)
	fails(t, h, []string{"vm", "cp", file, "f:/file"}, "no space left", "banger vm set VM --disk-size SIZE")

	ok(t, h, "stop", "f")
	ok(t, h, "start", "f")
	equal(t, "host name of a VM with full disks", sh("cat /etc/hostname"), "f\n")
	equal(t, "journals that were replayed", sh("dmesg | grep -c 'recovery complete' || true"), "0\n")
	ok(t, h, "stop", "f")
	ok(t, h, "vm", "set", "f", "--disk-size", "128M")
	ok(t, h, "start", "f")
	sh("dd if=/dev/zero of=/more bs=1M count=8")
	ok(t, h, "rm", "--force", "f")
}

// TestFullHost lets a guest fill the host's file system: up to the floor, or, without a floor, to
// the end. The VM is held with the reason, also by a new daemon. Another VM continues. With space
// again, the guest has lost nothing and has seen no error.
func TestFullHost(t *testing.T) {
	for _, tt := range []struct{ name, reserve, reason string }{
		{"floor", "32M", "floor"},
		{"no floor", "0", "full"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := warm(t)
			resize := smallState(t, h)
			h.Setenv("BANGER_DISK_RESERVE", tt.reserve)
			ok(t, h, "run", "-d", "--name", "other", "--work-disk-size", "0")
			ok(t, h, "run", "-d", "--name", "web")
			client, command := h.Start(t, "exec", "web", "--", "sh", "-c", "echo runs; sleep 600")
			command.Expect(t, "runs")
			ok(t, h, "exec", "web", "--", "sh", "-c", `setsid sh -c '
				yes 0123456789abcdef | head -c 130M >/root/big && sync && touch /root/done' >/dev/null 2>&1 &`)
			isHeld := func() bool { return show(t, h, "web").Held != nil }
			testkit.WaitFor(t, 5*time.Minute, "the VM to be held", isHeld)
			if held := show(t, h, "web").Held; string(held.Reason) != tt.reason || held.Free >= held.Resume {
				t.Errorf("the VM is held with %+v, want the reason %s and less space than it needs", held, tt.reason)
			}
			r := code(t, h, 0, "ps")
			matches(t, r.Stdout, `(?m)^web .* held `)
			has(t, r.Stderr, "web is held: the host")
			has(t, ok(t, h, "vm", "show", "web"), "held: the host")
			fails(t, h, []string{"exec", "web", "--", "true"}, "VM web is held", "banger df")
			began := time.Now()
			// the guest cannot get it now
			if err := client.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			equal(t, "exit status of a command that is held", command.Wait(t), 130)
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("a signal ended a command that is held after %v", took)
			}
			if tt.reserve != "0" {
				fails(t, h, []string{"run", "--rm", "--", "true"}, "the floor is 32M", "banger image prune")
				has(t, h.Banger(t, "doctor").Stdout, "the floor is 32M")
			}

			if err := syscall.Kill(daemonPID(t, h), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			testkit.WaitFor(t, 5*time.Minute, "the VM to be held by a new daemon", func() bool {
				r := h.Banger(t, "vm", "show", "web") // the first one may still meet the old daemon
				return r.Code == 0 && strings.Contains(r.Stdout, "held: the host")
			})
			equal(t, "a command in another VM", ok(t, h, "exec", "other", "--", "echo", "works"), "works\n")

			resize("400M")
			testkit.WaitFor(t, 5*time.Minute, "the VM to continue", func() bool { return !isHeld() })
			sh := func(line string) string { return ok(t, h, "exec", "web", "--", "sh", "-c", line) }
			testkit.WaitFor(t, 5*time.Minute, "the guest to finish", func() bool { return sh("ls /root") == "big\ndone\n" })
			equal(t, "the sum of the file", sh("echo 3 >/proc/sys/vm/drop_caches; md5sum </root/big | cut -c-32"), sumOfYes(130<<20)+"\n")
			equal(t, "errors that the guest saw", sh("dmesg | grep -ci 'i/o error' || true"), "0\n")
			ok(t, h, "stop", "web")
			ok(t, h, "rm", "--force", "web", "other")
		})
	}
}

// TestStopOfAHeldVM stops VMs whose guests have filled the host's disk. The stop reports what holds
// the VM. If there is space during the stop, the guest powers off. Otherwise its last writes are
// lost, and the exit status says so.
func TestStopOfAHeldVM(t *testing.T) {
	h := warm(t)
	resize := smallState(t, h)
	h.Setenv("BANGER_DISK_RESERVE", "0")
	held := func() {
		t.Helper()
		ok(t, h, "run", "-d", "--name", "web")
		ok(t, h, "exec", "web", "--", "sh", "-c", `setsid sh -c '
			yes 0123456789abcdef | head -c 130M >/root/big && sync' >/dev/null 2>&1 &`)
		testkit.WaitFor(t, 5*time.Minute, "the VM to be held", func() bool { return show(t, h, "web").Held != nil })
	}
	held()
	r := code(t, h, fault.Unavailable.ExitCode(), "stop", "--timeout", "5s", "web")
	has(t, r.Stderr, "error: VM web was ended: the guest may not have saved its data, because the host lacks disk space")
	equal(t, "the names that the stop prints", r.Stdout, "")
	equal(t, "state", show(t, h, "web").State, model.Stopped)
	ok(t, h, "rm", "web")
	testkit.WaitFor(t, time.Minute, "the space of the deleted VM to be free", func() bool {
		var fs unix.Statfs_t
		return unix.Statfs(filepath.Join(h.Dir, "state"), &fs) == nil && fs.Bavail*uint64(fs.Bsize) > 100<<20
	})

	held()
	_, stop := h.Start(t, "stop", "--timeout", "5m", "web")
	stop.Expect(t, "which is held (the host's disk is full: ")
	resize("400M")
	equal(t, "exit status of a stop with space during it", stop.Wait(t), 0)
}

// TestFloorDuringAnOperation: a guest freezes banger's agent, and fills the host's disk while an
// operation waits for it. The VM is held at the floor, before the operation ends.
func TestFloorDuringAnOperation(t *testing.T) {
	h := warm(t)
	smallState(t, h)
	h.Setenv("BANGER_DISK_RESERVE", "48M")
	ok(t, h, "run", "-d", "--name", "web", "--memory", "128M")
	// it begins to write when the operation has grown the drive
	ok(t, h, "exec", "web", "--", "sh", "-c", `
		mkdir -p /run/cg && mount -t cgroup2 none /run/cg && mkdir /run/cg/f
		size=/sys/block/$(basename $(df /root | tail -n 1 | cut -d " " -f 1))/size; [ -e $size ] || exit 1
		setsid sh -c "before=\$(cat $size); sleep 1; echo $PPID >/run/cg/f/cgroup.procs; echo 1 >/run/cg/f/cgroup.freeze
			until grep -q 'frozen 1' /run/cg/f/cgroup.events; do :; done; echo the agent is frozen >/dev/console
			while [ \$(cat $size) = \$before ]; do sleep 1; done
			yes 0123456789abcdef | head -c 130M >/root/big; sync" >/dev/null 2>&1 &`)
	testkit.WaitFor(t, time.Minute, "the agent to be frozen", func() bool {
		return strings.Contains(ok(t, h, "logs", "web"), "the agent is frozen")
	})
	_, set := h.Start(t, "vm", "set", "web", "--work-disk-size", "12G")
	testkit.WaitFor(t, 5*time.Minute, "the VM to be held", func() bool { return show(t, h, "web").Held != nil })
	if held := show(t, h, "web").Held; held.Reason != "floor" || held.Free < 16<<20 {
		t.Errorf("the VM is held with %+v, want it at the floor", held)
	}
	ok(t, h, "vm", "kill", "web")
	set.Expect(t, "was killed meanwhile") // so it was under way
	set.Wait(t)
}

// TestFullVMs has the VMs on another file system than the records. A guest fills it up to the
// floor. Its VM is held with the numbers of this file system, and starts are refused.
func TestFullVMs(t *testing.T) {
	h := warm(t)
	resize := smallDir(t, h, "state/vms")
	h.Setenv("BANGER_DISK_RESERVE", "32M")
	ok(t, h, "run", "-d", "--name", "web")
	ok(t, h, "exec", "web", "--", "sh", "-c", `setsid sh -c '
		yes 0123456789abcdef | head -c 130M >/root/big && sync && touch /root/done' >/dev/null 2>&1 &`)
	isHeld := func() bool { return show(t, h, "web").Held != nil }
	testkit.WaitFor(t, 5*time.Minute, "the VM to be held", isHeld)
	if held := show(t, h, "web").Held; held.Free > 120<<20 || held.Floor != 32<<20 {
		t.Errorf("the VM is held with %+v, want the numbers of the file system of VMs", held)
	}
	fails(t, h, []string{"run", "--rm", "--", "true"}, "state/vms, the floor is 32M")
	resize("400M")
	testkit.WaitFor(t, 5*time.Minute, "the VM to continue", func() bool { return !isHeld() })
	sh := func(line string) string { return ok(t, h, "exec", "web", "--", "sh", "-c", line) }
	testkit.WaitFor(t, 5*time.Minute, "the guest to finish", func() bool { return sh("ls /root") == "big\ndone\n" })
	equal(t, "errors that the guest saw", sh("dmesg | grep -ci 'i/o error' || true"), "0\n")
	ok(t, h, "rm", "--force", "web")
}

// TestFullTmpfs fills the tmpfs that has the memory file of a running VM. The VM continues and can
// use all of its memory.
func TestFullTmpfs(t *testing.T) {
	h := warm(t)
	resize := smallState(t, h)
	h.Setenv("BANGER_DISK_RESERVE", "0")
	resize("400M")
	ok(t, h, "run", "-d", "--name", "web", "--memory", "160M")
	ok(t, h, "suspend", "web")
	ok(t, h, "resume", "web")
	filler, err := os.Create(filepath.Join(h.Dir, "state", "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	for err == nil {
		_, err = filler.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	used := ok(t, h, "exec", "web", "--", "sh", "-c", "mount -t tmpfs x /mnt -o size=90% && head -c 64M /dev/zero >/mnt/x && wc -c </mnt/x")
	equal(t, "the bytes that the guest has in memory", used, "67108864\n")
	if err := filler.Truncate(0); err != nil {
		t.Fatal(err)
	}
}

// sumOfYes is the MD5 sum of the first n bytes of `yes 0123456789abcdef`.
func sumOfYes(n int) string {
	const line = "0123456789abcdef\n"
	return fmt.Sprintf("%x", md5.Sum([]byte(strings.Repeat(line, n/len(line)+1)[:n])))
}

// smallState puts the state of a home on a file system of its own, which the returned function
// resizes.
func smallState(t *testing.T, h *testkit.Home) (resize func(size string)) {
	t.Helper()
	return smallDir(t, h, "state")
}

// smallDir does so for any directory of the home.
func smallDir(t *testing.T, h *testkit.Home, name string) (resize func(size string)) {
	t.Helper()
	testkit.Require(t, "root", os.Geteuid() == 0, "a file system has to be mounted")
	dir := filepath.Join(h.Dir, name)
	mount := func(flags uintptr, size string) {
		t.Helper()
		if err := unix.Mount("small", dir, "tmpfs", flags, "mode=0700,size="+size); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	mount(0, "120M")
	t.Cleanup(func() {
		h.Banger(t, "rm", "--force", "web", "other")
		h.Banger(t, "daemon", "stop")
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return func(size string) { mount(unix.MS_REMOUNT, size) }
}
