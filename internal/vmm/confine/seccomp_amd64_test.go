package confine

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestRefused makes every call that the filter refuses, and some that it allows, with arguments
// that no call takes.
func TestRefused(t *testing.T) {
	const bad = ^uintptr(0)
	got := map[uint32]unix.Errno{}
	allowed := []uint32{unix.SYS_GETPID, unix.SYS_FCHDIR, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_EPOLL_CTL, unix.SYS_GETRANDOM}
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
	if len(got) == 0 {
		t.Skip("this host has no filters")
	}
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
