package daemon

import (
	"banger/internal/capability"
	"banger/internal/config"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
	"banger/internal/vmm/qemu"
)

// defaults returns the configuration's values for a new VM.
func defaults(cfg *config.Config) model.Spec {
	return model.Spec{
		Image: cfg.Image, Kernel: cfg.Kernel, VCPUs: cfg.VCPUs, Memory: cfg.Memory,
		DiskSize: cfg.DiskSize, WorkDiskSize: cfg.WorkDiskSize, Net: cfg.Net,
	}
}

// newDriver makes the configured driver. There is only one, so auto means that one.
func (d *daemon) newDriver(cfg *config.Config) (vmm.Driver, error) {
	q := qemu.New(qemu.Config{
		Binary: cfg.QEMU, Accel: qemu.Accel(cfg.Accel), Unconfined: cfg.Confine == "off", Log: d.component("qemu"),
	})
	if cfg.Driver != "auto" && cfg.Driver != q.Name() {
		return nil, fault.New(fault.Invalid, "there is no VMM driver %q", cfg.Driver).
			WithHint("Set driver to \"auto\" in %s.", d.Layout.ConfigFile())
	}
	return q, nil
}

func syncEntries(cfg *config.Config) []capability.SyncEntry {
	var all []capability.SyncEntry
	for _, e := range cfg.FileSync {
		all = append(all, capability.SyncEntry(e))
	}
	return all
}
