package boottest

import (
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/guest/proto"
)

// TestFullDisks: a guest fills both disks to the last block and the last inode, and is powered off.
// It starts again with another identity, and both disks were unmounted cleanly.
func TestFullDisks(t *testing.T) {
	p := requireParts(t)
	image := newImage(t, busyboxRoot(t))
	for _, tt := range []struct {
		name, fill string
		names      []string
	}{
		{"blocks", `for dir in / /root; do
			dd if=/dev/zero of=$dir/fill bs=64k; dd if=/dev/zero of=$dir/rest bs=512
			! echo more >> $dir/rest || exit 1
		done 2>/dev/null; true`, []string{"second", "a-much-longer-third"}},
		{"inodes", `for dir in / /root; do
			mkdir -p $dir/many; cd $dir/many; busybox seq 1 2000 | busybox xargs touch
			! touch more || exit 1
		done 2>/dev/null; true`, []string{"second"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := disks{image: image, system: newSmallDisk(t), work: newSmallDisk(t)}
			withWork := func(name string) func(*proto.Assume) {
				return func(doc *proto.Assume) {
					doc.Hostname = name
					doc.Mounts = []proto.Mount{{Serial: proto.SerialWork, Target: "/root", Seed: true}}
					doc.Files = []proto.File{{Path: "/root/.config", Mode: 0o644, Data: []byte(strings.Repeat(name, 2000))}}
				}
			}
			m := p.start(t, d)
			m.assume(withWork("first"))
			m.sh(tt.fill)
			if _, err := m.PowerOff(m.ctx(), endGrace); err != nil {
				t.Fatal(err)
			}
			m.awaitEnd()

			for _, name := range tt.names {
				m = p.start(t, d)
				m.assume(withWork(name))
				if got := m.sh("cat /etc/hostname"); got != name {
					t.Errorf("/etc/hostname of a VM with full disks holds %q, want %q", got, name)
				}
				if got := m.sh("head -c 6 /root/.config"); got != name[:6] {
					t.Errorf("a file on a full work disk begins with %q, want %q", got, name[:6])
				}
				if log := m.sh("busybox dmesg"); strings.Contains(log, "recovery complete") {
					t.Errorf("a full disk was not unmounted cleanly: the kernel replays its journal")
				}
				if got := m.sh("cat /sys/fs/ext4/vd*/reserved_clusters | sort -n | head -n 1"); got == "0" {
					t.Errorf("a reserve stays lent after the start")
				}
				if _, err := m.PowerOff(m.ctx(), endGrace); err != nil {
					t.Fatal(err)
				}
				m.awaitEnd()
			}
		})
	}
}

// newSmallDisk makes a disk that a guest fills fast.
func newSmallDisk(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.ext4")
	run(t, "truncate", "-s", "64M", path)
	run(t, "mke2fs", "-q", "-t", "ext4", "-b", "4096", "-m", "0", "-N", "1024", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", path)
	return path
}
