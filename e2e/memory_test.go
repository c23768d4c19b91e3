package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestMemoryAndDisks resumes a suspended VM whose disk is missing, is an older copy, or has lost
// its time. Each resume is refused and loses nothing. With the disk of that time the VM continues.
func TestMemoryAndDisks(t *testing.T) {
	h := warm(t)
	ok(t, h, "run", "-d", "--name", "box", "--memory", "256M")
	ok(t, h, "exec", "box", "--", "sh", "-c", "echo old >/root/f")
	ok(t, h, "stop", "box")
	dir := filepath.Join(h.Dir, "state/vms", show(t, h, "box").ID)
	must(t, h.Shell("cp -a --sparse=always "+dir+"/work.ext4 w.old"))
	ok(t, h, "start", "box")
	ok(t, h, "exec", "box", "--", "sh", "-c", "echo new >/root/f; echo kept >/dev/shm/memory")
	ok(t, h, "suspend", "box")
	refused := func(mentions ...string) string {
		t.Helper()
		var hint string
		for _, command := range []string{"resume", "start", "fork", "stop"} {
			r := fails(t, h, []string{command, "box"}, mentions...)
			equal(t, "exit status of "+command, r.Code, fault.Damaged.ExitCode())
			equal(t, "state after "+command, show(t, h, "box").State, model.Suspended)
			hint = r.Stderr
		}
		if _, err := os.Stat(dir + "/suspended/memory"); err != nil {
			t.Fatal(err)
		}
		return hint
	}
	continues := func() {
		t.Helper()
		ok(t, h, "resume", "box")
		equal(t, "memory", ok(t, h, "exec", "box", "--", "cat", "/dev/shm/memory"), "kept\n")
		equal(t, "file on the work disk", ok(t, h, "exec", "box", "--", "cat", "/root/f"), "new\n")
	}

	must(t, h.Shell("mv "+dir+"/system.ext4 ."))
	refused("system.ext4", "missing", "mount the disk", "banger vm kill box")
	ok(t, h, "daemon", "restart")
	refused("system.ext4", "missing")
	must(t, h.Shell("mv system.ext4 "+dir+"/"))
	continues()

	ok(t, h, "suspend", "box")
	must(t, h.Shell("mv "+dir+"/work.ext4 . && cp -a --sparse=always w.old "+dir+"/work.ext4"))
	refused("work.ext4", "Put the disk of that time back", "banger vm kill box")
	must(t, h.Shell("mv work.ext4 "+dir+"/work.ext4"))
	continues()

	// as after `cp -r` of a home
	ok(t, h, "suspend", "box")
	must(t, h.Shell("touch "+dir+"/work.ext4 "+dir+"/system.ext4"))
	ok(t, h, "daemon", "restart")
	hint := refused("work.ext4", "system.ext4", "touch -d")
	command := regexp.MustCompile(`touch -d \S+ '[^']*' && touch -d \S+ '[^']*'`).FindString(hint)
	must(t, h.Shell(command))
	continues()

	ok(t, h, "suspend", "box")
	must(t, h.Shell("cp -a --sparse=always w.old "+dir+"/work.ext4"))
	refused("work.ext4")
	ok(t, h, "vm", "kill", "box")
	ok(t, h, "start", "box")
	equal(t, "file on the older disk", ok(t, h, "exec", "box", "--", "cat", "/root/f"), "old\n")
	ok(t, h, "rm", "-f", "box")
}
