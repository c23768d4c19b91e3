package rootfs

import (
	"archive/tar"
	"testing"
)

func TestInit(t *testing.T) {
	x := func(name string) file { return file{name: name, body: "x", mode: 0o755} }
	ln := func(name, to string) file { return file{name: name, typ: tar.TypeSymlink, link: to} }
	tab := file{name: "etc/inittab", body: "x"}
	for _, tt := range []struct {
		name  string
		files []file
		want  string
	}{
		{"scratch", nil, ""},
		{"debian with systemd", []file{ln("lib", "usr/lib"), ln("sbin", "usr/sbin"), x("usr/lib/systemd/systemd"), ln("usr/sbin/init", "/lib/systemd/systemd")}, "/sbin/init"},
		{"systemd without its link", []file{ln("lib", "usr/lib"), x("usr/lib/systemd/systemd")}, "/lib/systemd/systemd"},
		{"relative link", []file{x("usr/lib/systemd/systemd"), ln("usr/sbin/init", "../lib/systemd/systemd")}, "/usr/sbin/init"},
		{"alpine container", []file{x("bin/busybox"), ln("sbin/init", "/bin/busybox"), tab}, ""},
		{"alpine machine", []file{x("bin/busybox"), ln("sbin/init", "/bin/busybox"), tab, x("sbin/openrc")}, "/sbin/init"},
		{"buildroot", []file{x("bin/busybox"), ln("sbin/init", "../bin/busybox"), tab, x("etc/init.d/rcS")}, "/sbin/init"},
		{"hard-linked busybox", []file{x("bin/busybox"), {name: "sbin/init", typ: tar.TypeLink, link: "bin/busybox"}, tab}, ""},
		{"openrc", []file{x("sbin/openrc-init"), ln("sbin/init", "openrc-init")}, "/sbin/init"},
		{"sysvinit", []file{x("sbin/init"), tab}, "/sbin/init"},
		{"some program", []file{x("sbin/init")}, ""},
		{"s6 and tini", []file{x("init"), x("sbin/tini"), ln("sbin/init", "tini")}, ""},
		{"not executable", []file{{name: "sbin/init", body: "x"}, tab}, ""},
		{"empty", []file{{name: "sbin/init", mode: 0o755}, tab}, ""},
		{"dangling", []file{ln("sbin/init", "/lib/systemd/systemd")}, ""},
		{"loop", []file{ln("sbin/init", "init")}, ""},
		{"directory", []file{{name: "sbin/init", typ: tar.TypeDir}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, tr, err := convert(t, Limits{}, makeTar(t, tt.files...))
			if err != nil {
				t.Fatal(err)
			}
			if got := tr.Init(); got != tt.want {
				t.Errorf("the init is %q, want %q", got, tt.want)
			}
		})
	}
}
