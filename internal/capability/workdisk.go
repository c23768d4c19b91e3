package capability

import (
	"context"
	"fmt"
	"os"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/paths"
	"banger/internal/vm"
	"banger/internal/vmm"
)

// WorkDisk gives a VM a disk of its own at /root, which survives stop and start and a change of the image. The guest's agent fills a fresh one
// with what the image has at /root.
type WorkDisk struct {
	Layout paths.Layout
}

// Name implements vm.Capability.
func (WorkDisk) Name() string { return "work-disk" }

// PrepareHost implements vm.HostPreparer: the disk is made at the first start, and has its present size at each.
func (w WorkDisk) PrepareHost(ctx context.Context, req vm.HostRequest) error {
	size := req.VM.Spec.WorkDiskSize
	if size == 0 {
		return nil
	}
	path := w.path(req.VM.ID)
	err := vm.FitDisk(path, size)
	if fault.KindOf(err) == fault.NotFound {
		return disk.Create(ctx, path, size)
	}
	return err
}

// Cleanup implements vm.Cleaner. Only a disk with nothing of the user's on it goes.
func (w WorkDisk) Cleanup(_ context.Context, req vm.CleanupRequest) error {
	if !req.VM.Fresh() {
		return nil
	}
	if err := os.RemoveAll(w.path(req.VM.ID)); err != nil {
		return fmt.Errorf("removing the work disk: %w", err)
	}
	return nil
}

// ContributeMachine implements vm.MachineContributor.
func (w WorkDisk) ContributeMachine(_ context.Context, req vm.MachineRequest) error {
	if req.VM.Spec.WorkDiskSize != 0 {
		req.Machine.Drives = append(req.Machine.Drives, vmm.Drive{Name: proto.SerialWork, Path: w.path(req.VM.ID)})
	}
	return nil
}

// ContributeGuest implements vm.GuestContributor.
func (w WorkDisk) ContributeGuest(_ context.Context, req vm.GuestRequest) error {
	if req.VM.Spec.WorkDiskSize == 0 {
		return nil
	}
	size, _, err := disk.Usage(w.path(req.VM.ID)) // it can be larger than the spec says: see vm.FitDisk
	if err != nil {
		return err
	}
	req.Assume.Mounts = append(req.Assume.Mounts, proto.Mount{Serial: proto.SerialWork, Target: "/root", Seed: true, Size: int64(size)})
	return nil
}

// ApplyConfigChange implements vm.ConfigChanger: the disk grows at once, under a running guest too.
func (w WorkDisk) ApplyConfigChange(ctx context.Context, req vm.ChangeRequest) ([]string, error) {
	old, size := req.Old.Spec.WorkDiskSize, req.New.Spec.WorkDiskSize
	if size == old || old == 0 { // a disk that the machine was started without comes with the next start
		return nil, nil
	}
	done, err := vm.GrowDisk(ctx, req, vm.Drive{Path: w.path(req.New.ID), Serial: proto.SerialWork, Size: size})
	if err != nil || !done {
		return nil, err
	}
	return []string{"work_disk_size"}, nil
}

func (w WorkDisk) path(id string) string { return w.Layout.VM(id).WorkDisk() }
