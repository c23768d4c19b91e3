package sshd

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// asUser runs f with the account's file permissions and a umask of 077. Only the kernel can check a
// path without a race, because programs of the user may change it meanwhile. The permissions belong
// to one thread (setfsuid(2)), so f must start no goroutine for file operations.
func asUser(a Account, f func() error) error {
	if os.Geteuid() != 0 {
		return f() // nothing to give up, as on a development machine
	}
	done := make(chan error, 1)
	go func() {
		// The thread is never unlocked: the runtime ends it with the goroutine, so that nobody
		// inherits its permissions.
		runtime.LockOSThread()
		err := setThreadUser(a)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// setThreadUser changes the calling thread. Package syscall's own functions would change all
// threads.
func setThreadUser(a Account) error {
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
	// These two report no failure. Only a second call with an impossible id returns the present one
	// (setfsuid(2)).
	unix.SetfsgidRetGid(a.GID)
	unix.SetfsuidRetUid(a.UID)
	gid, _ := unix.SetfsgidRetGid(-1)
	uid, _ := unix.SetfsuidRetUid(-1)
	if gid != a.GID || uid != a.UID {
		return fmt.Errorf("taking the rights of %d:%d: have %d:%d", a.UID, a.GID, uid, gid)
	}
	return nil
}
