package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/testkit"
)

// descriptors counts the open files of a process.
func descriptors(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// limit sets how many files a process may have open.
func limit(t *testing.T, pid, n int) {
	t.Helper()
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(n), Max: 4096}, nil); err != nil {
		t.Fatal(err)
	}
}

// TestDescriptors takes the daemon's descriptors away. Operations work, or they fail and say why.
// The daemon and its VMs live on. When there are descriptors again, everything works, and none has
// leaked.
func TestDescriptors(t *testing.T) {
	h := warm(t)
	ok(t, h, "run", "-d", "--name", "box", "--memory", "128M")
	ok(t, h, "snapshot", "create", "box", "--name", "first") // opens what stays open
	ok(t, h, "snapshot", "delete", "first")
	before := h.Snapshot(t)
	pid, machine := daemonPID(t, h), machinePID(t, h, "box")
	idle := func() (n int) {
		n = descriptors(t, pid)
		testkit.WaitFor(t, time.Minute, "the daemon's descriptors come to rest", func() bool {
			was := n
			time.Sleep(200 * time.Millisecond)
			n = descriptors(t, pid)
			return n <= was
		})
		return n
	}
	open := idle()
	refused, worked := 0, 0
	for _, spare := range []int{0, 1, 2, 4, 8, 16} {
		for _, line := range []string{
			"ps", "exec box -- true", "snapshot create box --name s", "snapshot delete s", "vm create --name other --memory 128M", "rm other",
		} {
			limit(t, pid, open+spare)
			began := time.Now()
			r := h.Banger(t, strings.Fields(line)...)
			limit(t, pid, 4096)
			what := fmt.Sprintf("with %d descriptors left, banger %s", spare, line)
			if took := time.Since(began); testkit.Late(took, time.Minute) {
				t.Errorf("%s took %v", what, took)
			}
			switch missing := r.Code == fault.NotFound.ExitCode(); {
			case r.Code == 0:
				worked++
			case missing && (strings.HasPrefix(line, "rm") || strings.Contains(line, "delete")):
				// it was not made before
			default:
				refused++
				if !strings.Contains(r.Stderr, "too many open files") && !strings.Contains(r.Stderr, "descriptor") {
					t.Errorf("%s does not say why: exit %d: %s", what, r.Code, r.Stderr)
				}
				if r.Code != fault.Unavailable.ExitCode() && r.Code != 125 {
					t.Errorf("%s: exit %d: %s", what, r.Code, r.Stderr)
				}
			}
		}
	}
	t.Logf("%d commands worked, %d were refused", worked, refused)
	if worked == 0 || refused == 0 {
		t.Error("the limits show nothing")
	}
	equal(t, "pid of the daemon", daemonPID(t, h), pid)
	equal(t, "pid of the machine", machinePID(t, h, "box"), machine)
	equal(t, "state", show(t, h, "box").State, model.Running)
	ok(t, h, "exec", "box", "--", "true")
	if now := idle(); now > open+2 {
		t.Errorf("the daemon has %d descriptors open; it had %d", now, open)
	}
	has(t, ok(t, h, "daemon", "logs"), "too many open files")
	h.CheckNoLeaks(t, before)
	ok(t, h, "rm", "--force", "box")
}

// TestFullDisk fills the file system of the VMs. Operations work, or they say that the disk is
// full. With room again, the VM has all its files, and everything works.
func TestFullDisk(t *testing.T) {
	testkit.Require(t, "root", os.Geteuid() == 0, "only root can mount a small file system")
	h := warm(t)
	h.Setenv("BANGER_DISK_RESERVE", "0") // otherwise banger refuses before anything is full
	state := filepath.Join(h.Dir, "state")
	if err := errors.Join(os.Mkdir(state, 0o700), unix.Mount("tmpfs", state, "tmpfs", 0, "mode=700,size=512m")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the test's own end, before the home's, which has registered earlier
		h.Banger(t, "daemon", "stop")
		if err := unix.Unmount(state, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ok(t, h, "run", "-d", "--name", "box", "--memory", "128M", "--disk-size", "1G")
	ok(t, h, "exec", "box", "--", "sh", "-c", "echo work >/root/kept; echo more >/opt/kept; sync")
	filler := filepath.Join(state, "filler")
	for _, leave := range []int64{0, 64 << 10, 4 << 20} {
		var st unix.Statfs_t
		if err := unix.Statfs(state, &st); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(filler)
		if err == nil {
			err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-leave), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{
			"ps", "exec box -- cat /root/kept", "vm create --name other --memory 128M", "vm set box --memory 192M", "snapshot create box --name s",
			"fork box --name child", "suspend box", "resume box", "stop --timeout 2s box", "start box",
		} {
			r := h.Banger(t, strings.Fields(line)...)
			state := r.Code == fault.WrongState.ExitCode() // the command before was refused
			full := r.Code == fault.Unavailable.ExitCode() && strings.Contains(strings.ToLower(r.Stderr), "space")
			if r.Code != 0 && !state && !full {
				t.Errorf("with %d KiB left, banger %s: exit %d: %s", leave>>10, line, r.Code, r.Stderr)
			}
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		testkit.WaitFor(t, time.Minute, "the VM is settled", func() bool { return settled(show(t, h, "box")) })
		ok(t, h, "start", "box")
		equal(t, fmt.Sprintf("the files after %d KiB were left", leave>>10), ok(t, h, "exec", "box", "--", "cat", "/root/kept", "/opt/kept"), "work\nmore\n")
		for _, v := range vms(t, h) {
			if v.Spec.Name != "box" {
				ok(t, h, "rm", "--force", v.ID)
			}
		}
		for _, s := range decode[[]model.Snapshot](t, h, "snapshot", "list") {
			ok(t, h, "snapshot", "delete", s.ID)
		}
	}
	ok(t, h, "rm", "--force", "box")
	if left, err := os.ReadDir(filepath.Join(state, "vms")); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}
