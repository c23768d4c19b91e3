package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// lowSpace is the free space below which reserves are lent. An identity needs less.
	lowSpace = 16 << 20
	// spareDir on the system disk holds the files whose inodes are the reserve.
	spareDir = "spare"
	// spareInodes are enough: the overlay needs three for a moment, and the files of the identity
	// exist since the first start.
	spareInodes = 8
)

// reserves holds, by device, how many blocks ext4 keeps back on a drive whose reserve is lent.
type reserves map[string]string

// lend makes the reserve of a drive usable if the drive has little other room. It does its best:
// whatever then lacks room reports it.
func (r reserves) lend(dev string, root *os.File) {
	var st unix.Statfs_t
	if _, lent := r[dev]; lent || unix.Fstatfs(int(root.Fd()), &st) != nil {
		return
	}
	if int64(st.Bavail)*st.Bsize >= lowSpace && st.Ffree >= spareInodes {
		return
	}
	text, err := os.ReadFile(reservePath(dev))
	if err != nil || os.WriteFile(reservePath(dev), []byte("0"), 0) != nil {
		return
	}
	r[dev] = strings.TrimSpace(string(text))
	for i := range spareInodes {
		_ = unix.Unlinkat(int(root.Fd()), spareName(i), 0)
	}
}

// keep undoes lend. What is in use by then stays in use.
func (r reserves) keep(dev string, root *os.File) error {
	was, lent := r[dev]
	if !lent {
		return nil
	}
	makeSpares(root)
	if err := os.WriteFile(reservePath(dev), []byte(was), 0); err != nil {
		return fmt.Errorf("keeping the reserve of %s: %w", dev, err)
	}
	delete(r, dev)
	return nil
}

// makeSpares makes the missing spare files of a drive that has a directory for them, as far as
// there is room.
func makeSpares(root *os.File) {
	for i := range spareInodes {
		fd, err := unix.Openat(int(root.Fd()), spareName(i), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
	}
}

func spareName(i int) string { return filepath.Join(spareDir, strconv.Itoa(i)) }

// reservePath is where the kernel has the number of blocks that ext4 keeps back
// (Documentation/ABI/testing/sysfs-fs-ext4).
func reservePath(dev string) string {
	return filepath.Join("/sys/fs/ext4", filepath.Base(dev), "reserved_clusters")
}
