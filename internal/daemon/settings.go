package daemon

import (
	"time"

	"banger/internal/capability"
	"banger/internal/image"
	"banger/internal/kernel"
	"banger/internal/model"
	"banger/internal/vmm/qemu"
)

// settings are what the configuration says, in the terms of the parts.
type settings struct {
	defaults    model.Spec
	bootTimeout time.Duration
	stopTimeout time.Duration
	qemu        string
	accel       qemu.Accel
	fileSync    []capability.SyncEntry
}

func loadSettings(Options) (settings, error) {
	return settings{
		defaults: model.Spec{
			Image: image.DefaultName, Kernel: kernel.Debian, VCPUs: 2, Memory: model.GiB,
			DiskSize: 8 * model.GiB, WorkDiskSize: 8 * model.GiB, Net: model.NetUser,
		},
	}, nil
}
