package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/pattern"
	"banger/internal/vmm/confine"
)

// quotedPath and barePath find the file of QEMU's messages, such as "Could not open 'PATH'".
var (
	quotedPath = pattern.Lazy(`'(/[^']+)'`)
	barePath   = pattern.Lazy(`/[^\s'",:;]+`)
	loaderName = pattern.Lazy(`(^|; )/\S+: `) // begins a message of the loader
)

const unconfine = "If this QEMU needs files outside /usr, set confine to off in the configuration."

// deniedHint returns what a person can do after QEMU has said "Permission denied". policy is nil if
// QEMU may use all files of the user.
func deniedHint(said string, policy *confine.Policy) string {
	said = loaderName().ReplaceAllString(said, "")
	path := barePath().FindString(said)
	if quoted := quotedPath().FindStringSubmatch(said); quoted != nil {
		path = quoted[1]
	}
	inherited := strings.HasPrefix(path, "/proc/self/")
	switch {
	case path != "" && !inherited && deniedByMode(path, policy):
		return fmt.Sprintf("QEMU runs as user %d, and the owner and the mode of %s, or of a directory above it, do not allow that.", os.Geteuid(), path)
	case policy == nil, path != "" && !inherited && policy.Allows(path):
		return "Look for a denial by AppArmor or SELinux: journalctl -k"
	case path == "" || inherited:
		return unconfine
	}
	return fmt.Sprintf("QEMU is confined and may not use %s. %s", path, unconfine)
}

// deniedByMode reports whether the user may not use a file as QEMU wants to. A confined QEMU of
// root reads all files, and writes only those that their mode lets it write.
func deniedByMode(path string, policy *confine.Policy) bool {
	writes := policy != nil && slices.Contains(policy.Write, path)
	want := uint32(unix.R_OK)
	if writes {
		want |= unix.W_OK
	}
	if errors.Is(unix.Faccessat(unix.AT_FDCWD, path, want, unix.AT_EACCESS), fs.ErrPermission) {
		return true
	}
	info, err := os.Stat(path)
	if err != nil || !writes || os.Geteuid() != 0 {
		return false
	}
	st := info.Sys().(*syscall.Stat_t) // os.Stat returns this type on Linux
	bit := fs.FileMode(0o002)
	if st.Uid == 0 {
		bit = 0o200
	} else if st.Gid == 0 {
		bit = 0o020
	}
	return info.Mode()&bit == 0
}
