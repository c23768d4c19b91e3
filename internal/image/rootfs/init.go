package rootfs

import (
	"archive/tar"
	"path"
	"strings"
)

// initPaths are where Linux systems have their init, the most common first.
var initPaths = []string{"/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd"}

// Init returns the path of the image's init, or "" if the agent is to be process 1. Containers have
// many programs called init that are not one, so only known inits that are set up count
// (docs/internals/images.md).
func (t *Tree) Init() string {
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

// isInit reports whether the program of that name is an init that is set up.
func (t *Tree) isInit(program string) bool {
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

func (t *Tree) has(p string) bool {
	n := t.lookup(p)
	return n != nil && n.typ == tar.TypeReg
}

// name returns the last component of a path's final target: "busybox" if "/sbin/init" links to it.
// An inode with several names, one of them busybox, is busybox too.
func (t *Tree) name(p string) string {
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
			p = "/" + join(d, p) // not cleaned: ".." depends on where links lead
		}
	}
	return ""
}

func (t *Tree) aliasOf(n *inode, base string) string {
	for _, p := range []string{"/bin/busybox", "/usr/bin/busybox", "/sbin/busybox"} {
		if n != nil && t.lookup(p) == n {
			return "busybox"
		}
	}
	return base
}
