package e2e

import (
	"strings"
	"testing"
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
