package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/internal/model"
)

// What Landlock refuses, by its version (Documentation/userspace-api/landlock.rst).
const (
	rightsFirst = 1<<13 - 1 // version 1: all from EXECUTE to MAKE_SYM
	readRights  = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	writeRights = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE |
		unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	fileRights = unix.LANDLOCK_ACCESS_FS_EXECUTE | writeRights // that a rule for a file may have

	versionRefer    = 2
	versionTruncate = 3
	versionDevices  = 5
	versionScopes   = 6
)

// landlockVersion is the version of the kernel's Landlock; 0 if it has none.
var landlockVersion = sync.OnceValue(func() int {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(version)
})

// handled returns the rights that a version knows, and its scopes.
func handled(version int) (rights, scopes uint64) {
	rights = rightsFirst
	if version >= versionRefer {
		rights |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version >= versionTruncate {
		rights |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if version >= versionDevices {
		rights |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if version >= versionScopes {
		scopes = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	}
	return rights, scopes
}

// ruleset is a Landlock ruleset that a thread can enter. Without Landlock, fd is -1.
type ruleset struct {
	fd      int
	version int
	rights  uint64
}

// newRuleset makes the rules of a policy for a version of Landlock.
func newRuleset(p Policy, version int) (_ *ruleset, err error) {
	r := &ruleset{fd: -1, version: version}
	if r.version == 0 {
		return r, nil
	}
	var scopes uint64
	r.rights, scopes = handled(r.version)
	attr := unix.LandlockRulesetAttr{Handled_access_fs: r.rights, Scoped: scopes}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return nil, fmt.Errorf("making a Landlock ruleset: %w", errno)
	}
	r.fd = int(fd)
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	for _, path := range p.Read {
		if err := r.allow(path, readRights); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	for _, path := range p.Write {
		if err := r.allow(path, writeRights); err != nil {
			return nil, err
		}
	}
	for _, f := range p.Reopen {
		if err := r.allow(descriptor(f), unix.LANDLOCK_ACCESS_FS_READ_FILE); err != nil {
			return nil, err
		}
	}
	for _, f := range p.ReopenWritable {
		if err := r.allow(descriptor(f), writeRights); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// allow adds a rule for what path leads to.
func (r *ruleset) allow(path string, rights uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("allowing %s: %w", path, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("allowing %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		rights &= fileRights
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: rights & r.rights, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(r.fd), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	// A file of a kernel's own file system, such as a memfd, takes no rule and needs none.
	if errno != 0 && !errors.Is(errno, unix.EBADFD) {
		return fmt.Errorf("allowing %s: %w", path, errno)
	}
	return nil
}

// enter restricts the calling thread, and returns what that protects.
func (r *ruleset) enter() model.Protection {
	files := model.Layer{Name: model.LayerFiles, Note: "the kernel has no Landlock"}
	devices := model.Layer{Name: model.LayerDevices, Note: fmt.Sprintf("Landlock has version %d, and needs %d", r.version, versionDevices)}
	signals := model.Layer{Name: model.LayerSignals, Note: fmt.Sprintf("Landlock has version %d, and needs %d", r.version, versionScopes)}
	if r.fd >= 0 {
		_, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(r.fd), 0, 0)
		if errno == 0 {
			files.On, devices.On, signals.On = true, r.version >= versionDevices, r.version >= versionScopes
		} else {
			files.Note = "the kernel refuses Landlock: " + errno.Error()
		}
	}
	list := model.Protection{files, devices, signals}
	for i := range list {
		if list[i].On {
			list[i].Note = ""
		} else if !files.On {
			list[i].Note = files.Note
		}
	}
	return list
}

func (r *ruleset) close() {
	if r.fd >= 0 {
		_ = unix.Close(r.fd)
		r.fd = -1
	}
}
