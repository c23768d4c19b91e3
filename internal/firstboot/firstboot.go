// Package firstboot decides whether VMs may share what the first boot of an image wrote.
//
// A template of an image is a machine whose init has run. All VMs that start from it have the files
// that this boot wrote. A key that a service draws at its first start would be the same in all of
// them. So a boot may only write files that are known to be harmless, or that are made anew in each
// VM: by the agent, or by a program in the image's /etc/banger/fork.d.
package firstboot

import (
	"path"
	"slices"
	"strings"

	"banger/internal/guest/proto"
)

// Verdict is what is known of an image's first boot.
type Verdict struct {
	// Shared are the files that every VM would share, and that are not known to be harmless.
	Shared []string
	// Cut means that the boot wrote more files than the guest reports.
	Cut bool
}

// Harmless reports whether VMs may share what the boot wrote.
func (v Verdict) Harmless() bool { return len(v.Shared) == 0 && !v.Cut }

// maxShared bounds what a verdict names.
const maxShared = 16

// Judge judges what a guest reports of its boot. The report is hostile input.
func Judge(w proto.Writes) Verdict {
	v := Verdict{Cut: w.More}
	v.add(w.Paths, harmless, w.Renewed)
	v.add(w.Links, harmless, harmlessLinks, w.Renewed)
	return v
}

// add judges files that no list of known ones has.
func (v *Verdict) add(files []string, known ...[]string) {
	for _, file := range files {
		file = path.Clean("/" + file)
		if slices.ContainsFunc(known, func(list []string) bool { return matches(file, list) }) {
			continue
		}
		if len(v.Shared) == maxShared {
			v.Cut = true
			return
		}
		v.Shared = append(v.Shared, file)
	}
}

// matches reports whether a file is in a list. An element that ends with a slash is a directory
// with all that it holds.
func matches(file string, list []string) bool {
	for _, known := range list {
		if file == known || len(known) > 1 && strings.HasSuffix(known, "/") && strings.HasPrefix(file, known) {
			return true
		}
	}
	return false
}

// harmlessLinks are symbolic links that a boot makes. A unit or a key beside them is no such link.
var harmlessLinks = []string{"/etc/systemd/system/", "/etc/systemd/user/", "/etc/ssl/certs/"}

// harmless are files that a boot of a usual distribution writes, and that no secret is in.
var harmless = []string{
	// The agent writes these anew with each identity.
	"/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/machine-id",
	"/var/lib/dbus/machine-id", "/var/lib/systemd/random-seed",

	// The state of the host's packages, and what is computed from it.
	"/etc/.updated", "/etc/.pwd.lock", "/etc/ld.so.cache", "/etc/mtab", "/etc/adjtime", "/etc/timezone", "/etc/localtime",
	"/etc/udev/hwdb.bin",
	"/var/lib/apt/", "/var/lib/dpkg/", "/var/lib/ucf/", "/var/lib/man-db/", "/var/lib/rpm/", "/var/lib/dnf/",

	// When something was done, and what was seen.
	"/var/lib/systemd/catalog/", "/var/lib/systemd/timers/", "/var/lib/systemd/timesync/", "/var/lib/systemd/rfkill/",
	"/var/lib/systemd/deb-systemd-helper-enabled/", "/var/lib/systemd/deb-systemd-user-helper-enabled/",
	"/var/lib/private/systemd/timesync/", "/var/lib/logrotate/", "/var/lib/misc/", "/var/lib/chrony/drift", "/var/lib/ntpsec/ntp.drift",
}
