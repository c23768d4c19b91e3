package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// masked lists systemd units and generators that are useless in a VM and cost seconds in emulation.
// Links to /dev/null below /run mask them for one boot (systemd.unit(5)). udev, dbus, logind,
// journald and timers stay.
var masked = map[string][]string{
	"/run/systemd/system": {
		// There is no LVM, and the host checks the file systems.
		"e2scrub_reap.service", "e2scrub_all.timer",
		// The root is an overlay that is already mounted as it should be.
		"systemd-remount-fs.service", "systemd-fsck-root.service",
		// The image has no kernel modules, so nothing can be loaded.
		"modprobe@.service", "systemd-modules-load.service", "kmod-static-nodes.service",
		// These help to debug the kernel. Root can still mount them.
		"sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount", "dev-hugepages.mount",
		// The kernel's own message queues need no mount (mq_overview(7)).
		"dev-mqueue.mount",
		// The host seeds the random generator with each start.
		"systemd-random-seed.service",
		// The network is up before the init starts.
		"systemd-networkd-wait-online.service", "NetworkManager-wait-online.service", "ifupdown-wait-online.service",
	},
	"/run/systemd/system-generators": {
		// The image's fstab names disks of another machine. Waiting for them ends in an emergency
		// shell.
		"systemd-fstab-generator", "systemd-gpt-auto-generator", "systemd-cryptsetup-generator", "systemd-veritysetup-generator",
		"systemd-integritysetup-generator", "lvm2-activation-generator", "systemd-hibernate-resume-generator",
		// The console is a log on which nobody logs in.
		"systemd-getty-generator",
		// The identity comes from the host.
		"cloud-init-generator",
	},
}

// prepareInit masks units before the init starts. Other inits than systemd ignore it.
func prepareInit() error {
	var errs []error
	for dir, names := range masked {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			errs = append(errs, err)
			continue
		}
		for _, name := range names {
			if err := os.Symlink("/dev/null", filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrExist) {
				errs = append(errs, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("masking units: %w", err)
	}
	return nil
}
