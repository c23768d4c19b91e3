package image

import (
	"archive/tar"
	"path"
	"strings"
)

// Where a Linux system has its init, the likeliest first.
var initPaths = []string{"/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd"}

// init returns the path of the image's init, or "" when a VM of it shall have the agent as process 1.
//
// Container images are full of programs called init that are none: s6-overlay's /init, tini, and a busybox that brings /sbin/init
// among its hundred links. So only what is at one of initPaths counts, executable once links are followed inside the image, and only if
// it is one of these, set up to be used:
//
//   - systemd, openrc-init, runit-init, dinit: by the name of the program;
//   - busybox with an /etc/inittab and what those name in practice: OpenRC (/sbin/openrc) or a start script (/etc/init.d/rcS);
//   - sysvinit: a file of its own called init, with an /etc/inittab.
func (t *tree) init() string {
	for _, p := range initPaths {
		n := t.lookup(p)
		if n == nil || n.typ != tar.TypeReg || n.mode&0o111 == 0 || n.size == 0 {
			continue
		}
		if t.isInit(t.name(p)) {
			return p
		}
	}
	return ""
}

// isInit tells whether the program of that name is an init that is set up.
func (t *tree) isInit(program string) bool {
	switch program {
	case "systemd", "openrc-init", "runit-init", "dinit":
		return true
	case "busybox":
		return t.has("/etc/inittab") && (t.has("/sbin/openrc") || t.has("/etc/init.d/rcS"))
	case "init":
		return t.has("/etc/inittab")
	}
	return false
}

func (t *tree) has(p string) bool {
	n := t.lookup(p)
	return n != nil && n.typ == tar.TypeReg
}

// name is the last component of where a path ends when links are followed: "busybox" for "/sbin/init" that leads there. Hard links have no
// end, so an inode with several names, of which one is a busybox, is that.
func (t *tree) name(p string) string {
	for range maxHops {
		dir, base := path.Split(p)
		d := t.lookup(dir)
		if d == nil || !d.isDir() {
			return ""
		}
		n := d.children[base].inode
		if n == nil || n.typ != tar.TypeSymlink {
			return t.aliasOf(n, base)
		}
		p = n.target
		if !strings.HasPrefix(p, "/") {
			p = "/" + join(d, p) // not cleaned: ".." is about where links lead
		}
	}
	return ""
}

func (t *tree) aliasOf(n *inode, base string) string {
	for _, p := range []string{"/bin/busybox", "/usr/bin/busybox", "/sbin/busybox"} {
		if n != nil && t.lookup(p) == n {
			return "busybox"
		}
	}
	return base
}
