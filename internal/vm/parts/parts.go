// Package parts chooses what a VM is made of: its image, its kernel and the number of its CPUs.
//
// What a person wrote is found by name, and what a record holds by exact id. What is found may be
// deleted again before a record names it: package vm sees to that.
package parts

import (
	"cmp"
	"context"
	"fmt"

	"banger/internal/fault"
	"banger/internal/limit"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/vm/explain"
	"banger/internal/vmm"
)

// Images finds root filesystems.
type Images interface {
	machine.Images
	// Get returns the image that ref, which a person wrote, means.
	Get(ref string) (model.Image, error)
	// Ensure returns the image that ref means, after making it (pull, build) if it is missing.
	Ensure(ctx context.Context, ref string, report step.Reporter) (model.Image, error)
}

// Kernels finds guest kernels.
type Kernels interface {
	machine.Kernels
	// Get returns the kernel that ref, which a person wrote, means.
	Get(ref string) (model.Kernel, error)
	// Ensure returns the kernel that ref means, after making it if it is missing.
	Ensure(ctx context.Context, ref string, report step.Reporter) (model.Kernel, error)
}

// Chooser chooses parts. It is safe for concurrent use.
type Chooser struct {
	Images  Images
	Kernels Kernels
	Drivers *vmm.Registry
}

// Check fails if the image or the kernel of a complete spec is missing.
func (c Chooser) Check(spec model.Spec) error {
	if _, err := c.Images.ByID(spec.ImageID); err != nil {
		return fault.New(fault.KindOf(err), "image %s (%.12s): %w", spec.Image, spec.ImageID, err).
			WithHint("its disks hold changes to that very image, so another one does not do")
	}
	if _, err := c.Kernels.ByID(spec.KernelID); err != nil {
		return fmt.Errorf("kernel %s (%.12s): %w", spec.Kernel, spec.KernelID, err)
	}
	return nil
}

// Resolve finds or makes the image and the kernel, and pins them in spec.
func (c Chooser) Resolve(ctx context.Context, spec *model.Spec, report step.Reporter) error {
	img, err := c.Images.Ensure(ctx, spec.Image, report)
	if err != nil {
		return err // names the image
	}
	k, err := c.Kernels.Ensure(ctx, spec.Kernel, report)
	if err != nil {
		return err
	}
	spec.ImageID, spec.KernelID = img.ID, k.ID
	if spec.VCPUs == 0 {
		spec.VCPUs = c.vcpusFor(ctx, img)
	}
	return nil
}

// usualVCPUs is how many virtual CPUs a VM has if nobody asks for another number.
const usualVCPUs = 2

// CheckUnresolved refuses a spec that cannot be right, before anything long begins. What is chosen
// later has a stand-in.
func CheckUnresolved(spec model.Spec) error {
	spec.Name = cmp.Or(spec.Name, "unnamed")
	spec.VCPUs = cmp.Or(spec.VCPUs, usualVCPUs)
	if err := spec.ValidateNew(); err != nil {
		return fault.New(fault.Invalid, "%w", err)
	}
	return limit.CheckMemory(spec.Memory)
}

// vcpusFor chooses how many virtual CPUs a VM has for which nobody gives a number.
func (c Chooser) vcpusFor(ctx context.Context, img model.Image) int {
	if img.Init == "" {
		return usualVCPUs
	}
	info, err := c.Drivers.Default().Info(ctx)
	if r, ok := info.Recommended(vmm.MaxVCPUsWithInit); err == nil && ok {
		return min(usualVCPUs, r.Value)
	}
	return usualVCPUs
}

// Changed is a spec as the change would have it. No image or kernel is made for it: a change is
// quick.
func (c Chooser) Changed(ctx context.Context, old model.Spec, change model.Change) (model.Spec, error) {
	next := old.With(change)
	if err := c.chooseVCPUs(ctx, old, &next); err != nil {
		return next, err
	}
	if err := explain.CheckChange(old, next); err != nil {
		return next, err
	}
	return next, c.pinChange(old, &next)
}

// chooseVCPUs chooses the number anew, as when the VM was created, if the change leaves it open.
func (c Chooser) chooseVCPUs(ctx context.Context, old model.Spec, next *model.Spec) error {
	if next.VCPUs != 0 {
		return nil
	}
	find, ref := c.Images.ByID, next.ImageID
	if next.Image != old.Image {
		find, ref = c.Images.Get, next.Image
	}
	img, err := find(ref)
	if err == nil {
		next.VCPUs = c.vcpusFor(ctx, img)
	}
	return err
}

// pinChange pins an image or kernel that the change names.
func (c Chooser) pinChange(old model.Spec, next *model.Spec) error {
	if next.Image != old.Image {
		img, err := c.Images.Get(next.Image)
		if err != nil {
			return err
		}
		next.ImageID = img.ID
	}
	if next.Kernel != old.Kernel {
		k, err := c.Kernels.Get(next.Kernel)
		if err != nil {
			return err
		}
		next.KernelID = k.ID
	}
	return nil
}
