package tree

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// maxXattr is the kernel's bound on a list of names and on a value (linux/limits.h).
const maxXattr = 64 << 10

// xattrs copies the file's own extended attributes. Those of the overlay describe its layers and
// stay behind.
func xattrs(from, to string) error {
	list := make([]byte, maxXattr)
	n, err := unix.Llistxattr(from, list)
	if err != nil || n == 0 {
		return ignoreUnsupported(err)
	}
	value := make([]byte, maxXattr)
	for _, name := range strings.FieldsFunc(string(list[:n]), func(r rune) bool { return r == 0 }) {
		if strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		k, err := unix.Lgetxattr(from, name, value)
		if err != nil {
			return err
		}
		if err := ignoreUnsupported(unix.Lsetxattr(to, name, value[:k], 0)); err != nil {
			return err
		}
	}
	return nil
}

func ignoreUnsupported(err error) error {
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}
