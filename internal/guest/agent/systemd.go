package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// masked are the units and generators of systemd that make no sense in a banger VM, and cost seconds each in an emulated one. They are masked for
// one boot, by links to /dev/null below /run (systemd.unit(5), systemd.generator(7)), so the image is not changed. What a program
// or a person in the VM may want stays: udev, dbus, logind, journald, timers.
var masked = map[string][]string{
	"/run/systemd/system": {
		// There is no LVM, and the host looks after the file systems.
		"e2scrub_reap.service", "e2scrub_all.timer",
		// The root is an overlay that is mounted as it should be.
		"systemd-remount-fs.service", "systemd-fsck-root.service",
		// Kernel modules are not in the image, so nothing can be loaded from it.
		"modprobe@.service", "systemd-modules-load.service", "kmod-static-nodes.service",
		// For debuggers of the kernel; a root user can still mount them.
		"sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount", "dev-hugepages.mount",
		// The kernel's own message queues need no mount (mq_overview(7)).
		"dev-mqueue.mount",
		// The host seeds the random generator with each start.
		"systemd-random-seed.service",
		// The network is up before the init is.
		"systemd-networkd-wait-online.service", "NetworkManager-wait-online.service", "ifupdown-wait-online.service",
	},
	"/run/systemd/system-generators": {
		// What the image's fstab names are disks of the machine that it was made on; waiting for them ends in an emergency shell.
		"systemd-fstab-generator", "systemd-gpt-auto-generator", "systemd-cryptsetup-generator", "systemd-veritysetup-generator",
		"systemd-integritysetup-generator", "lvm2-activation-generator", "systemd-hibernate-resume-generator",
		// Nobody logs in at the console: it is a log.
		"systemd-getty-generator",
		// The identity comes from the host.
		"cloud-init-generator",
	},
}

// prepareInit makes what an init looks for before it starts anything. For other inits than systemd it means nothing.
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
