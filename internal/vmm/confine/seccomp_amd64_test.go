package confine

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/testkit"
)

// TestRefused makes every call that the filter refuses, and some that it allows, with arguments
// that no call takes.
func TestRefused(t *testing.T) {
	const bad = ^uintptr(0)
	got := map[uint32]unix.Errno{}
	allowed := []uint32{unix.SYS_GETPID, unix.SYS_FSYNC, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_EPOLL_CTL, unix.SYS_GETRANDOM}
	onThread(func() {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			t.Error(err)
			return
		}
		if err := installFilter(None); err != nil {
			t.Log("not proved:", err)
			return
		}
		for _, list := range [][]uint32{refused, absent, allowed, {unix.SYS_SOCKET, unix.SYS_UNLINK}} {
			for _, nr := range list {
				_, _, got[nr] = unix.RawSyscall6(uintptr(nr), bad, bad, bad, bad, bad, bad)
			}
		}
	})
	testkit.Require(t, "seccomp", len(got) != 0, "this host has no filters")
	for _, nr := range refused {
		if got[nr] != unix.EPERM {
			t.Errorf("the call %d is not refused: %v", nr, got[nr])
		}
	}
	for _, nr := range absent {
		if got[nr] != unix.ENOSYS {
			t.Errorf("the call %d does not count as absent: %v", nr, got[nr])
		}
	}
	for _, nr := range allowed {
		if got[nr] == unix.EPERM || got[nr] == unix.ENOSYS {
			t.Errorf("the call %d is refused: %v", nr, got[nr])
		}
	}
	if got[unix.SYS_SOCKET] != unix.EPERM || got[unix.SYS_UNLINK] != unix.ENOENT {
		t.Errorf("making a socket: %v; removing a file: %v", got[unix.SYS_SOCKET], got[unix.SYS_UNLINK])
	}
}

// TestNewerCalls makes calls that no kernel has yet, and those of x32. An earlier filter gives them
// an answer of their own, as a kernel that has them would. The newest filter's answer goes first.
func TestNewerCalls(t *testing.T) {
	numbers := []uintptr{newest + 1, newest + 2, 1000, 0x40000000, 0x40000000 + 520, ^uintptr(0)}
	var future program
	future.load(offCall)
	future.ifAbove(newest + 1)
	future.refuse(unix.EXDEV)
	future.allow()
	before, after := make([]unix.Errno, len(numbers)), make([]unix.Errno, len(numbers))
	var err error
	onThread(func() {
		if err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return
		}
		if err = install(future); err != nil {
			return
		}
		for i, nr := range numbers {
			_, _, before[i] = unix.RawSyscall(nr, 0, 0, 0)
		}
		if err = installFilter(None); err != nil {
			return
		}
		for i, nr := range numbers {
			_, _, after[i] = unix.RawSyscall(nr, 0, 0, 0)
		}
	})
	testkit.Require(t, "seccomp", err == nil, fmt.Sprint(err))
	for i, nr := range numbers {
		if before[i] != unix.EXDEV {
			t.Errorf("the call %#x proves nothing: without the filter, it fails with %v", nr, before[i])
		}
		if after[i] != unix.ENOSYS {
			t.Errorf("the call %#x does not count as absent: %v", nr, after[i])
		}
	}
}
