package e2e

import (
	"strings"
	"testing"

	"banger/internal/testkit"
)

// limited starts the daemon from a shell with limits.
func limited(t *testing.T, h *testkit.Home, ulimit string) {
	t.Helper()
	h.Banger(t, "daemon", "stop")
	run(t, h, "bash", "-c", "ulimit "+ulimit+" && banger daemon start")
}

// TestFileLimit starts the daemon with a limit of the file size. A soft limit is raised. A hard
// limit below a disk's size refuses each way up of a VM, and the growth of a disk: the guest would
// see I/O errors. With a daemon without the limit, all works.
func TestFileLimit(t *testing.T) {
	h := warm(t)
	limited(t, h, "-S -f 1000")
	ok(t, h, "run", "-d", "--name", "web", "--disk-size", "64M", "--work-disk-size", "256M", "--memory", "160M")
	ok(t, h, "exec", "web", "--", "dd", "if=/dev/zero", "of=/root/file", "bs=1M", "count=16")
	ok(t, h, "snapshot", "create", "--name", "snap", "web")
	ok(t, h, "run", "-d", "--name", "small", "--disk-size", "64M", "--work-disk-size", "64M", "--memory", "160M")
	ok(t, h, "suspend", "web")

	limited(t, h, "-f 204800") // 200M
	for _, args := range [][]string{
		{"resume", "web"},
		{"snapshot", "restore", "--name", "other", "snap"},
		{"fork", "--name", "child", "web"},
		{"run", "--rm", "--disk-size", "256M", "--work-disk-size", "0", "--", "true"},
	} {
		r := fails(t, h, args, "he limit of the size of a file is 200M (ulimit -f)", "banger daemon restart")
		if want := 69; r.Code != want && args[0] != "run" {
			t.Errorf("%s: exit %d, want %d", strings.Join(args, " "), r.Code, want)
		}
	}
	ok(t, h, "vm", "kill", "web")
	fails(t, h, []string{"start", "web"}, "and the VM needs 256M")
	has(t, h.Banger(t, "doctor").Stdout, "limit-file-size")
	ok(t, h, "exec", "small", "--", "true")
	fails(t, h, []string{"vm", "set", "small", "--work-disk-size", "256M"}, "200M (ulimit -f)", "banger daemon restart")

	limited(t, h, "-c 0")
	ok(t, h, "start", "web")
	ok(t, h, "vm", "set", "small", "--work-disk-size", "256M")

	// The client has such a limit of its own.
	said := run(t, h, "bash", "-c", "ulimit -f 1000; banger cp web:/root/file "+t.TempDir()+" 2>&1; echo exit $?")
	has(t, said, "file too large", "1000K (ulimit -f)", "exit 69")
	ok(t, h, "rm", "--force", "web", "small")
}

// TestOldLimit grows a disk of a VM whose VMM has a lower limit than the present daemon.
func TestOldLimit(t *testing.T) {
	h := warm(t)
	limited(t, h, "-f 204800")
	ok(t, h, "run", "-d", "--name", "web", "--disk-size", "64M", "--work-disk-size", "64M", "--memory", "160M")
	limited(t, h, "-c 0")
	fails(t, h, []string{"vm", "set", "web", "--work-disk-size", "256M"}, "the limit of the size of a file is 200M", "and the VM needs 256M")
	ok(t, h, "vm", "set", "web", "--work-disk-size", "128M")
	ok(t, h, "exec", "web", "--", "sh", "-c", "dd if=/dev/zero of=/root/file bs=1M count=80 && sync")
	ok(t, h, "vm", "restart", "web")
	ok(t, h, "vm", "set", "web", "--work-disk-size", "256M")
	ok(t, h, "rm", "--force", "web")
}

// TestSpaceAndTimeLimits: a VM that cannot have its memory is refused with the limit, and a VMM
// that has used its CPU time leaves the reason.
func TestSpaceAndTimeLimits(t *testing.T) {
	h := warm(t)
	for _, flag := range []string{"-v", "-d"} {
		limited(t, h, flag+" 3000000")
		fails(t, h, []string{"run", "--rm", "--memory", "1G", "--", "true"}, "2.9G (ulimit "+flag+"), and the VM needs 3G", "banger daemon restart")
	}
	ok(t, h, "vm", "create", "--name", "box", "--memory", "1G")
	for _, limit := range []string{"-v 1000000", "-d 500000"} { // QEMU cannot even print its help
		limited(t, h, limit)
		r := fails(t, h, []string{"start", "box"}, "(ulimit "+limit[:2]+"), and the VM needs 3G", "banger daemon restart")
		equal(t, "exit status", r.Code, 69)
	}
	ok(t, h, "rm", "box")
	limited(t, h, "-t 8")
	ok(t, h, "run", "-d", "--name", "web", "--memory", "160M", "--work-disk-size", "0")
	h.Banger(t, "exec", "web", "--", "sh", "-c", "while :; do :; done")
	has(t, ok(t, h, "vm", "show", "web"), "SIGXCPU", "ulimit -t")
	ok(t, h, "rm", "--force", "web")
}
