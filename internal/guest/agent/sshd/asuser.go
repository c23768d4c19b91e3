package sshd

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// asUser runs f with the account's rights to files, and with a umask that keeps what f makes to the account alone. The agent is root, and
// a path that a user named may lead through folders that a program of the user's changes at the same moment: only the
// kernel can check it without a race.
//
// The rights belong to one thread (setfsuid(2), credentials(7)); f must not hand file operations to another goroutine.
func asUser(a Account, f func() error) error {
	if os.Geteuid() != 0 {
		return f() // nothing to give up: a development machine
	}
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the runtime ends the thread with the goroutine, so nobody inherits the rights.
		runtime.LockOSThread()
		err := becomeUser(a)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// becomeUser changes the calling thread. It goes past the wrappers of package syscall, which change all threads.
func becomeUser(a Account) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // a umask of its own
		return fmt.Errorf("separating a thread: %w", err)
	}
	unix.Umask(0o077)
	groups := make([]uint32, len(a.Groups), len(a.Groups)+1)
	for i, g := range a.Groups {
		groups[i] = uint32(g)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0); errno != 0 {
		return fmt.Errorf("setting the groups of user %d: %w", a.UID, errno)
	}
	// These two report no failure; only asking again with an impossible id shows what holds (setfsuid(2)).
	unix.SetfsgidRetGid(a.GID)
	unix.SetfsuidRetUid(a.UID)
	gid, _ := unix.SetfsgidRetGid(-1)
	uid, _ := unix.SetfsuidRetUid(-1)
	if gid != a.GID || uid != a.UID {
		return fmt.Errorf("taking the rights of %d:%d: have %d:%d", a.UID, a.GID, uid, gid)
	}
	return nil
}
