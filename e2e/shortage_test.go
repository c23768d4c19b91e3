package e2e

import (
	"fmt"
	"os"
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
			if took := time.Since(began); took > time.Minute {
				t.Errorf("%s took %v", what, took)
			}
			switch missing := r.Code == fault.NotFound.ExitCode(); {
			case r.Code == 0:
				worked++
			case missing && (strings.HasPrefix(line, "rm") || strings.Contains(line, "delete")): // it was not made
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
