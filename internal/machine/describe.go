package machine

import (
	"context"
	"fmt"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/vmm"
)

// Parts are what a machine boots from. All of them are zero in the description of a restored
// machine.
type Parts struct {
	Image     model.Image
	Kernel    model.Kernel
	Initramfs Initramfs
}

// bootID stands for the content of what a machine boots; "" if it boots nothing.
func (p Parts) bootID() string {
	if p.Kernel.ID == "" {
		return ""
	}
	return p.Kernel.ID + " " + p.Initramfs.ID
}

// consoleMax bounds what is kept of a guest's console: a guest can write there for ever.
const consoleMax = 1 * model.MiB

// Describe says what machine a driver shall build for a subject. It makes nothing.
func (h *Host) Describe(ctx context.Context, s Subject, parts Parts) (vmm.Machine, error) {
	files := h.Layout.VM(s.ID)
	m := vmm.Machine{
		ID:        s.ID,
		RunDir:    files.Run,
		Kernel:    parts.Kernel.Vmlinux,
		Initramfs: parts.Initramfs.Archives,
		BootID:    parts.bootID(),
		VCPUs:     s.Spec.VCPUs,
		Memory:    s.Spec.Memory,
		Drives: []vmm.Drive{
			{Name: proto.SerialImage, Path: parts.Image.Path, ReadOnly: true},
			{Name: proto.SerialSystem, Path: files.SystemDisk()},
		},
		ConsoleLog: files.ConsoleLog(),
		ConsoleMax: consoleMax,
		VMMLog:     files.VMMLog(),
	}
	for _, c := range h.Capabilities {
		if p, ok := c.(MachineContributor); ok {
			if err := p.ContributeMachine(ctx, MachineRequest{Subject: s, Machine: &m}); err != nil {
				return vmm.Machine{}, fmt.Errorf("%s: %w", c.Name(), err)
			}
		}
	}
	return m, nil
}

// Fingerprint looks the subject's parts up and returns the fingerprint of its machine: text that is
// equal for machines whose saved state is interchangeable.
func (h *Host) Fingerprint(ctx context.Context, s Subject) (string, error) {
	d, err := h.driver("")
	if err != nil {
		return "", err
	}
	r, err := Restorer(d)
	if err != nil {
		return "", err
	}
	var parts Parts
	if parts.Image, err = h.Images.ByID(s.Spec.ImageID); err != nil {
		return "", err
	}
	if parts.Kernel, err = h.Kernels.ByID(s.Spec.KernelID); err != nil {
		return "", err
	}
	if parts.Initramfs, err = h.Kernels.Initramfs(ctx, parts.Kernel); err != nil {
		return "", err
	}
	m, err := h.Describe(ctx, s, parts)
	if err != nil {
		return "", err
	}
	return r.Fingerprint(ctx, m)
}

// Shape returns the fingerprint of a subject's machine without what it was booted from, on which a
// restored machine does not depend any more.
func (h *Host) Shape(ctx context.Context, driver string, s Subject) (string, error) {
	d, err := h.driver(driver)
	if err != nil {
		return "", err
	}
	r, err := Restorer(d)
	if err != nil {
		return "", err
	}
	m, err := h.Describe(ctx, s, Parts{})
	if err != nil {
		return "", err
	}
	return shapeOf(ctx, r, m)
}

// CheckShape fails if a subject's machine cannot be restored from a state with this fingerprint.
// Without a driver that restores machines nothing is checked.
func (h *Host) CheckShape(ctx context.Context, driver string, s Subject, want string) error {
	d, err := h.driver(driver)
	if err != nil {
		return err
	}
	r, ok := d.(vmm.Restorer)
	if !ok {
		return nil
	}
	m, err := h.Describe(ctx, s, Parts{})
	if err != nil {
		return err
	}
	return checkShape(ctx, r, m, want)
}

func shapeOf(ctx context.Context, r vmm.Restorer, m vmm.Machine) (string, error) {
	m.Kernel, m.BootID, m.Initramfs, m.Cmdline = "", "", nil, nil
	return r.Fingerprint(ctx, m)
}

func checkShape(ctx context.Context, r vmm.Restorer, m vmm.Machine, want string) error {
	if want == "" {
		return nil
	}
	got, err := shapeOf(ctx, r, m)
	if err != nil {
		return err
	}
	if got != want {
		return fault.New(fault.Unsupported,
			"the saved machine cannot be restored here: it was saved with another version of the VMM, or on another CPU").
			WithHint("its disks can still be used: see --disks-only of `banger snapshot restore`, and `banger vm kill` for a suspended VM")
	}
	return nil
}
