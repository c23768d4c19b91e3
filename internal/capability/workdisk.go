package capability

import (
	"context"
	"fmt"
	"os"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/machine"
	"banger/internal/paths"
	"banger/internal/vmm"
)

// WorkDisk gives a VM a disk of its own at /root, which survives stop and start and a change of the
// image. The guest's agent fills a fresh one with what the image has at /root.
type WorkDisk struct {
	Layout paths.Layout
}

// Name implements machine.Capability.
func (WorkDisk) Name() string { return "work-disk" }

// PrepareHost implements machine.HostPreparer: the disk is made at the first start, and has its
// present size at each.
func (w WorkDisk) PrepareHost(ctx context.Context, req machine.HostRequest) error {
	size := req.Spec.WorkDiskSize
	if size == 0 {
		return nil
	}
	path := w.path(req.ID)
	err := machine.FitDisk(path, size)
	if fault.KindOf(err) == fault.NotFound {
		return disk.Create(ctx, path, size)
	}
	return err
}

// Cleanup implements machine.Cleaner. Only a disk with nothing of the user's on it goes.
func (w WorkDisk) Cleanup(_ context.Context, req machine.CleanupRequest) error {
	if !req.Fresh {
		return nil
	}
	if err := os.RemoveAll(w.path(req.ID)); err != nil {
		return fmt.Errorf("removing the work disk: %w", err)
	}
	return nil
}

// ContributeMachine implements machine.MachineContributor.
func (w WorkDisk) ContributeMachine(_ context.Context, req machine.MachineRequest) error {
	if req.Spec.WorkDiskSize != 0 {
		req.Machine.Drives = append(req.Machine.Drives, vmm.Drive{Name: proto.SerialWork, Path: w.path(req.ID)})
	}
	return nil
}

// ContributeGuest implements machine.GuestContributor.
func (w WorkDisk) ContributeGuest(_ context.Context, req machine.GuestRequest) error {
	if req.Spec.WorkDiskSize == 0 {
		return nil
	}
	size := req.Sizes[proto.SerialWork] // it can be larger than the spec says: see machine.FitDisk
	req.Assume.Mounts = append(req.Assume.Mounts, proto.Mount{Serial: proto.SerialWork, Target: "/root", Seed: true, Size: int64(size)})
	return nil
}

// ApplyConfigChange implements machine.ConfigChanger: the disk grows at once, under a running guest
// too.
func (w WorkDisk) ApplyConfigChange(ctx context.Context, req machine.ChangeRequest) ([]string, error) {
	old, size := req.Old.Spec.WorkDiskSize, req.New.Spec.WorkDiskSize
	// a disk that the machine was started without comes with the next start
	if size == old || old == 0 {
		return nil, nil
	}
	done, err := machine.GrowDisk(ctx, req.Machine, machine.Drive{Path: w.path(req.New.ID), Name: proto.SerialWork, Size: size})
	if err != nil || !done {
		return nil, err
	}
	return []string{"work_disk_size"}, nil
}

func (w WorkDisk) path(id string) string { return w.Layout.VM(id).WorkDisk() }
