package e2e

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/testkit"
)

// TestLostLock makes VMMs close the lock that shows whose they are, as one may that a guest has
// taken over, and kills the daemon. The next daemon adopts the VMs, and can end them in every way.
func TestLostLock(t *testing.T) {
	h := warm(t)
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)
	for _, end := range []string{"vm stop --timeout 0 box", "vm stop box", "vm kill box", "vm delete --force box"} {
		ok(t, h, "run", "-d", "--name", "box")
		pid := machinePID(t, h, "box")
		testkit.WaitFor(t, time.Minute, "the VMM to close its lock", func() bool {
			err := closeIn(pid, 3)
			if errors.Is(err, unix.EPERM) {
				testkit.Require(t, "ptrace", false, "this host does not let a test trace its VMM")
			}
			if err != nil {
				t.Log(err)
			}
			return err == nil
		})
		killDaemon(t, h)
		equal(t, "the state", string(show(t, h, "box").State), string(model.Running))
		equal(t, "stdout", ok(t, h, "exec", "box", "--", "echo", "alive"), "alive\n")
		ok(t, h, strings.Fields(end)...)
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // a zombie has none
		if len(cmdline) > 0 {
			t.Errorf("after banger %s, the VMM runs on: %q", end, cmdline)
		}
		if r := h.Banger(t, "vm", "delete", "box"); r.Code != 0 && r.Code != fault.NotFound.ExitCode() {
			t.Errorf("banger vm delete: exit %d: %s", r.Code, r.Stderr)
		}
	}
	h.CheckNoLeaks(t, before)
}

// closeIn makes a process that waits in a system call close one of its descriptors.
func closeIn(pid, fd int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.PtraceAttach(pid); err != nil {
		return fmt.Errorf("tracing process %d: %w", pid, err)
	}
	defer func() { _ = unix.PtraceDetach(pid) }()
	stopped := func() error {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, unix.WALL, nil)
		return err
	}
	var was unix.PtraceRegs
	if err := errors.Join(stopped(), unix.PtraceGetRegs(pid, &was)); err != nil {
		return err
	}
	const syscallInsn = "\x0f\x05"
	code := make([]byte, len(syscallInsn))
	if _, err := unix.PtracePeekText(pid, uintptr(was.Rip)-2, code); err != nil || string(code) != syscallInsn {
		return fmt.Errorf("process %d is not in a system call: %q, %w", pid, code, err)
	}
	regs := was
	regs.Rip, regs.Rax, regs.Rdi, regs.Orig_rax = was.Rip-2, unix.SYS_CLOSE, uint64(fd), ^uint64(0)
	err := errors.Join(unix.PtraceSetRegs(pid, &regs), unix.PtraceSingleStep(pid), stopped(), unix.PtraceGetRegs(pid, &regs))
	if err == nil && regs.Rax != 0 {
		err = fmt.Errorf("closing descriptor %d of process %d: %w", fd, pid, syscall.Errno(-int64(regs.Rax)))
	}
	return errors.Join(err, unix.PtraceSetRegs(pid, &was))
}
